"""Reads the class names of checkpoints and modules, and finds a class by a name."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from attnviz.errors import UsageError

FEW = 20
"""Up to so many labels, an error lists all of them; of more, it lists the nearest."""
_PLACEHOLDER = re.compile(r"LABEL_\d+")


def labels_of(value: Any, count: int | None = None) -> tuple[str, ...] | None:
    """Labels in the order of their classes; None if there are none, or not one for each class.

    >>> labels_of({1: "dog", 0: "cat"})
    ('cat', 'dog')

    Args:
        value: names in order, or numbers to names; transformers' filler `LABEL_3` is not a name.
        count: number of classes, if known.
    """
    if isinstance(value, dict):
        try:
            numbered = {int(number): name for number, name in value.items()}
        except (TypeError, ValueError):
            return None
        value = [numbered.get(number) for number in range(len(numbered))]
    if not isinstance(value, list | tuple) or not value or (count not in (None, len(value))):
        return None
    names = [name for name in value if isinstance(name, str)]
    if len(names) != len(value) or all(_PLACEHOLDER.fullmatch(name) for name in names):
        return None
    return tuple(names)


def find_label(labels: Sequence[str], name: str) -> int:
    """The class of a label, or of a comma-separated synonym; exact case first, then any.

    >>> find_label(["tench, Tinca tinca", "goldfish"], "tinca tinca")
    0

    Raises:
        UsageError: no class has this name, or several have.
    """
    names = [{label, *map(str.strip, label.split(","))} for label in labels]
    found = [number for number, of_class in enumerate(names) if name in of_class]
    if not found:  # "cardigan" is clothing, "Cardigan" is a dog
        lower = [{name.lower() for name in of_class} for of_class in names]
        found = [number for number, of_class in enumerate(lower) if name.lower() in of_class]
    if len(found) > 1:
        several = ", ".join(f"{number} ({labels[number]})" for number in found)
        raise UsageError(f"--target {name!r} is the name of {several}; give the number of one")
    if not found:
        raise UsageError(f"--target {name!r} is no label of this model; {_advice(labels, name)}")
    return found[0]


def _advice(labels: Sequence[str], name: str) -> str:
    """All labels if they are few; else those that contain the word or resemble it."""
    if len(labels) <= FEW:
        return f"give one of {', '.join(labels)}"
    names = list(dict.fromkeys(name.strip() for label in labels for name in label.split(",")))
    word = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
    close = difflib.get_close_matches(name.lower(), [name.lower() for name in names], n=3)
    near = [name for name in names if word.search(name)][:3]
    near += [name for name in names if name.lower() in close and name not in near]
    number = f"a number from 0 to {len(labels) - 1}"
    return f"did you mean {' or '.join(near[:3])}? or give {number}" if near else f"give {number}"
