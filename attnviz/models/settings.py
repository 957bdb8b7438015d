"""What options of models accept, without torch: `--set`, `--mean`, `--std`, files of weights."""

import math
from collections.abc import Sequence
from typing import Any

from attnviz.errors import UsageError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors", ".npz")
"""Endings of the names of files of weights; `.pth.tar` is one."""
NAMED: dict[str, dict[str, tuple[float, float, float]]] = {
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


def parse_statistic(option: str, text: str) -> tuple[float, float, float]:
    """The three numbers of `--mean` or `--std`: one for all channels, three, or a name.

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
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        names = ", ".join(NAMED[option])
        raise UsageError(
            f"--{option} {text!r}: give one number or three, such as 0.5,0.5,0.5, or {names}"
        )
    if max(map(abs, numbers)) > 1:
        raise UsageError(
            f"--{option} {text}: pixel values are from 0 to 1; divide by 255 what is of 0 to 255"
        )
    if option == "std" and min(numbers) <= 0:
        raise UsageError(f"--std {text}: give numbers over 0")
    red, green, blue = numbers * (3 // len(numbers))
    return red, green, blue


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
