"""Scores maps of words against the objects that they name."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.errors import UsageError
from attnviz.evaluation.map_scorer import Score
from attnviz.evaluation.objects import Objects

_COLOUR = re.compile(r"#?([0-9a-fA-F]{6})")


@dataclass(frozen=True)
class NamedObjects:
    """The words for the objects of a picture's mask.

    Attributes:
        words: pairs of a colour of the mask, 0xRRGGBB, and the word that names its object.
        prompt: what the model is asked.
        answer: the answer to look at; None lets the model generate one.
    """

    words: tuple[tuple[int, str], ...]
    prompt: str = ""
    answer: str | None = None


def read_words(path: str) -> dict[str, NamedObjects]:
    """The words for the objects of pictures, by file name, from a file of JSON lines.

    A line is `{"path": "0000.png", "words": {"ff5050": "mug"}}`, with `prompt` and `answer` if
    wanted; other fields may be there.

    Raises:
        UsageError: the file cannot be read, or a line is not such an object.
    """
    found = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--words {path}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            found[Path(data["path"]).name] = NamedObjects(
                tuple((_colour(each), str(word)) for each, word in data["words"].items()),
                _text(data.get("prompt")) or "",
                _text(data.get("answer")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"--words {path}: line {number} is not like "
                '{"path": "a.png", "words": {"ff0000": "mug"}}'
            ) from error
    return found


def _text(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise TypeError(value)
    return value


def _colour(text: Any) -> int:
    match = _COLOUR.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1], 16)


def object_of(objects: Objects, colour: int) -> Objects | None:
    """The object of a colour alone; None if the mask has none of it."""
    if colour not in objects.colours:
        return None
    number = objects.colours.index(colour) + 1
    return Objects(objects.path, (objects.labels == number).astype(np.int64), 1, (colour,))


@dataclass
class WordMeans:
    """Collects the scores of maps word by word, and gives their means over words."""

    _scores: dict[tuple[Any, ...], list[Score]] = field(default_factory=dict)

    def add(self, scores: Iterable[Score]) -> None:
        """Add the scores of one word's maps."""
        for each in scores:
            place = each.baseline, each.method, each.layer, each.head
            self._scores.setdefault(place, []).append(each)

    def scores(self) -> Sequence[Score]:
        """One score for each map: the means over the words, where a metric is defined."""
        return [
            replace(
                same[0],
                numbers={
                    name: _mean([each.numbers[name] for each in same]) for name in same[0].numbers
                },
            )
            for same in self._scores.values()
        ]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
