"""What options of models accept, without torch: `--set`, `--input`, `--mean` …, weight files."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnviz.errors import UsageError

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors", ".npz")
"""Endings of the names of files of weights; `.pth.tar` is one."""
CHECKPOINTS = tuple(ending for ending in SUFFIXES if ending not in (".tar", ".npz"))
"""Those that no picture has."""
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
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers of the resampling filters."""


@dataclass(frozen=True)
class InputForm:
    """How a module takes its pixels.

    Attributes:
        name: the argument of `forward`; None for the first.
        key: the key of the pixels if the argument is a dict.
        listed: whether the argument is a list of pictures, (channels, height, width) each.
    """

    name: str | None = None
    key: str | None = None
    listed: bool = False


FIRST = InputForm()
_INPUT = re.compile(r"(?P<name>[^\W\d]\w*)?(?P<brackets>\[(?P<key>[^\]]*)\])?")


def parse_input(text: str | None) -> InputForm:
    """The form of `--input`: `NAME`, `NAME[KEY]` or `[KEY]` of a dict, `NAME[]` or `[]` of a list.

    >>> parse_input("batch[image]")
    InputForm(name='batch', key='image', listed=False)
    >>> parse_input("[]").listed
    True

    Raises:
        UsageError: it is none of these.
    """
    if text is None:
        return FIRST
    found = _INPUT.fullmatch(text)
    if not text or found is None:
        raise UsageError(
            f"--input {text!r}: give the argument of forward that takes the pixels, such as "
            "pixel_values; batch[image] or [image] for a dict; [] for a list of pictures"
        )
    return InputForm(found["name"], found["key"] or None, found["key"] == "")


def parse_output(text: str | None) -> tuple[str | int, ...]:
    """The steps of `--output`, from the outside: names or keys, and numbers of tuples and lists.

    >>> parse_output("heads.0.logits")
    ('heads', 0, 'logits')

    Raises:
        UsageError: a step is empty.
    """
    if text is None:
        return ()
    steps = text.split(".")
    if not all(steps):
        raise UsageError(
            f"--output {text!r}: give the part of the model's output that holds the logits, such "
            "as logits, 1 or heads.species (the folder of files is --out)"
        )
    return tuple(int(step) if step.removeprefix("-").isdecimal() else step for step in steps)


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


def parse_filter(name: str) -> str:
    """The name of a resampling filter.

    Raises:
        UsageError: it is none.
    """
    if name not in FILTERS:
        raise UsageError(f"unknown --resize {name!r}; choose from {', '.join(FILTERS)}")
    return name


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
