"""Objects that a detector or segmenter found, and which of them a query names.

This file has no heavy imports.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attnviz.geometry.grid import Box
    from attnviz.geometry.placement import Placement

THRESHOLD = 0.5
"""Objects with a higher score are drawn, by default."""
_FEW = 12
"""At most so many labels are listed in an error."""


@dataclass(frozen=True)
class DetectedObject:
    """One object query of a model, and what the model predicts for it.

    Attributes:
        index: number of the object query.
        label: the class of the highest probability.
        score: this probability.
        box: in pixels of the model's input; None if its mask is empty.
    """

    index: int
    label: str
    score: float
    box: Box | None

    def __str__(self) -> str:
        return f"{self.label} {self.score:.2f}"

    def on_picture(self, placement: Placement) -> tuple[float, float, float, float] | None:
        """The box in picture pixels: crop, padding and scale are undone."""
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        return *placement.to_picture(left, top), *placement.to_picture(right, bottom)


def check_threshold(threshold: float, option: str = "--threshold") -> None:
    """Check that a threshold is a probability.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(f"{option} {threshold:g} is no score: give 0 to 1, such as 0.5")


def found_objects(
    objects: Sequence[DetectedObject],
    threshold: float,
    *,
    asked: str,
    number: int | None = None,
    label: str | None = None,
) -> list[DetectedObject]:
    """The objects that a query names, the highest score first.

    Args:
        objects: what the model predicts for each of its object queries.
        threshold: objects of a higher score count; the one of a number counts in any case.
        asked: the query as it was typed.
        number: number of the one object query that is asked for.
        label: the class of the objects that are asked for.

    Raises:
        UsageError: the model has no such object query.
        NotFoundError: it found no such object in the picture.
    """
    if not objects:
        raise UsageError(
            f"--query {asked}: this model predicts no objects; give a detector or a segmenter "
            "that was saved with its head, or take --query auto"
        )
    if number is not None:
        if number >= len(objects):
            raise UsageError(
                f"--query {asked}: this model has {len(objects)} object queries, object:0 to "
                f"object:{len(objects) - 1}"
            )
        return [objects[number]]
    ranked = sorted(objects, key=lambda each: -each.score)
    over = [each for each in ranked if each.score > threshold]
    if label is None and not over:
        raise NotFoundError(f"--query {asked}: {nothing_over(ranked[0], threshold)}")
    return over if label is None else _of_label(label, asked, ranked, threshold)


def nothing_over(best: DetectedObject, threshold: float) -> str:
    """Why no object is drawn, and the threshold that shows the best one."""
    return (
        f"no object has a score over {threshold:g}; the best is object:{best.index}, {best}: take "
        f"--threshold {_below(best.score)}"
    )


def _of_label(
    label: str, asked: str, ranked: Sequence[DetectedObject], threshold: float
) -> list[DetectedObject]:
    """The objects of a label; exact case first, then any."""
    over = [each for each in ranked if each.score > threshold]
    for same in (str, str.lower):
        found = [each for each in over if same(each.label) == same(label)]
        if found:
            return found
    counts = Counter(each.label for each in over)
    labels = [f"{name} ({n})" if n > 1 else name for name, n in counts.items()]
    shown = ", ".join(labels[:_FEW]) + (", …" if len(labels) > _FEW else "")
    lower = next((each for each in ranked if each.label.lower() == label.lower()), None)
    if lower is not None:
        advice = f"object:{lower.index} is {lower}: take --threshold {_below(lower.score)}"
    elif labels:
        advice = "give one of these"
    else:
        advice = f"the best is object:{ranked[0].index}, {ranked[0]}"
    there = f"; there are {shown}" if shown else ""
    raise NotFoundError(
        f"--query {asked}: no object over {threshold:g} has this label{there}; {advice}"
    )


def _below(score: float) -> str:
    """The largest number of two digits that a score is over.

    >>> _below(0.418), _below(0.004)
    ('0.41', '0')
    """
    return f"{max(0.0, math.ceil(score * 100 - 1) / 100):g}"
