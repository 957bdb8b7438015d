"""Parses `--set NAME=VALUE`, and `--mean` and `--std`, without torch."""

import math
from collections.abc import Sequence
from typing import Any

from attnviz.errors import UsageError

NAMED: dict[str, dict[str, tuple[float, ...]]] = {
    "mean": {
        "imagenet": (0.485, 0.456, 0.406),
        "half": (0.5, 0.5, 0.5),
        "none": (0.0, 0.0, 0.0),
    },
    "std": {
        "imagenet": (0.229, 0.224, 0.225),
        "half": (0.5, 0.5, 0.5),
        "none": (1.0, 1.0, 1.0),
    },
}
"""Values of `--mean` and `--std` that have names; `none` leaves pixel values from 0 to 1."""


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """Names and values of `NAME=VALUE`: numbers, true, false, none, and else text.

    >>> parse_settings(["depth=6", "drop=0.1", "ckpt=best.pt", "pool=false"])
    {'depth': 6, 'drop': 0.1, 'ckpt': 'best.pt', 'pool': False}

    Raises:
        UsageError: one has no `=`, its name is not one of Python, or a name is given twice.
    """
    settings: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {each!r} is not NAME=VALUE; give it such as --set depth=6")
        if name in settings:
            raise UsageError(f"--set {name} is given twice; give it once")
        settings[name] = _value(text)
    return settings


def parse_statistic(option: str, text: str) -> tuple[float, ...]:
    """The numbers of `--mean` or `--std`: one for all channels, one for each, or a name.

    One number is given three times; names have three.

    >>> parse_statistic("mean", "0.5"), parse_statistic("std", "none")
    ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0))

    Raises:
        UsageError: it is neither, a number is not finite, or a deviation is not over 0.
    """
    if text in NAMED[option]:
        return NAMED[option][text]
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        names = ", ".join(NAMED[option])
        raise UsageError(
            f"--{option} {text!r}: give one number, or one for each channel, such as 0.5,0.5,0.5, "
            f"or {names}"
        )
    if max(map(abs, numbers)) > 1:
        raise UsageError(
            f"--{option} {text}: pixel values are from 0 to 1; divide by 255 what is of 0 to 255"
        )
    if option == "std" and min(numbers) <= 0:
        raise UsageError(f"--std {text}: give numbers over 0")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def _value(text: str) -> Any:
    """A value as a number, True, False or None if it is written as one, and else the text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "_" in text:  # Python would read 1_2 as 12
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
