"""Makes the sides of a comparison: the maps of explanations, without the model's runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.comparison.comparison_record import SideInfo
from attnviz.drawing.scale import Range
from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
from attnviz.explanation.naming import in_words, place_of
from attnviz.explanation.object_regions import ObjectRegion
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.geometry.sound_axes import SoundAxes
from attnviz.methods import METHODS
from attnviz.output import records
from attnviz.output.make_record import make_record, map_info, object_numbers
from attnviz.statistics.maps import describe


@dataclass(frozen=True, eq=False)
class ComparisonSide:
    """One map and its description; it keeps no model and no recording in memory.

    Attributes:
        info: its entry in the record, without the parts that depend on the other sides.
        query: the query, as resolved for its layer.
        target: the target of the gradient, in words; None if the method uses no gradient.
        values: (rows, columns) float32 weights on its own grid.
        drawn: (rows, columns), False for cells that are masked or lie in padding.
        placement: where its cells lie on the picture.
        region: where the object lies that the map looks from; None for other queries.
    """

    info: SideInfo
    query: Query
    target: str | None
    values: NDArray[np.float32]
    drawn: NDArray[np.bool_]
    placement: Placement
    region: ObjectRegion | None = None

    @property
    def scale(self) -> Range:
        """The range of its colours: from the smallest drawn weight to the largest."""
        return span(self.values[self.drawn])


def span(weights: NDArray[np.float32]) -> Range:
    """The range of the colours for weights (n,); without weights it is flat."""
    if not len(weights):
        return Range("head", 0.0, 0.0)
    return Range("head", float(weights.min()), float(weights.max()))


def sides_of(explanation: Explanation) -> list[ComparisonSide]:
    """A side for each question and layer: the mean of the requested heads, or of localized ones.

    The mean of the float32 weights is computed in float64. If there is only one head, or the method
    merges heads, the side is that map itself.

    Raises:
        UsageError: the maps are those of a clip.
    """
    explanation.require_one_view()
    explanation.require_one_component()
    record = make_record(explanation)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, answer in enumerate(explanation.answers):
        if explanation.localized and answer.head is not None:
            continue  # the mean of the chosen heads follows them
        groups.setdefault((answer.question, answer.layer), []).append(index)
    return [
        _side(
            explanation.questions[question],
            record,
            [explanation.answers[index] for index in group],
            record.heads[group[0]],
            explanation.observation.picture.sound,
            localized=explanation.localized,
        )
        for (question, _), group in groups.items()
    ]


def _side(
    question: ResolvedQuestion,
    record: records.Record,
    answers: Sequence[Answer],
    head: records.Head,
    sound: SoundAxes | None,
    *,
    localized: bool,
) -> ComparisonSide:
    """The mean of some answers; `head` is a record entry with what they share.

    `sound` has the seconds and hertz of a spectrogram.
    """
    first = answers[0]
    mean = np.stack([answer.values for answer in answers]).mean(0, dtype=np.float64)
    values = mean.astype(np.float32)
    several = len(answers) > 1
    info = SideInfo(
        model=record.model,
        method=record.method,
        options=record.options,
        layer=first.layer,
        head="localized" if localized else "mean" if several else first.head,
        heads=[answer.head for answer in answers if answer.head is not None] if several else None,
        query=head.query or record.query,
        target=head.target or record.target,
        smoothing=record.smoothing,
        check=record.check,
        rows=head.rows,
        columns=head.columns,
        fit=first.placement.fit,
        map=map_info(
            describe(values, first.drawn, first.placement),
            sound,
            object_numbers(first.region, values, first),
        ),
    )
    target = None if question.target is None else in_words(question.target.target)
    return ComparisonSide(
        info, first.query, target, values, first.drawn, first.placement, first.region
    )


def names(sides: Sequence[ComparisonSide]) -> list[str]:
    """A name for each side, from the parts in which the sides differ.

    Two layers of one model are `layer 0` and `layer 5`; a model and its control are `pretrained`
    and `random weights`.
    """
    return [_joined(of_side) for of_side, _ in _split(sides)]


def shared(sides: Sequence[ComparisonSide]) -> str:
    """The parts that all sides have in common."""
    return _joined(_split(sides)[0][1])


def _split(sides: Sequence[ComparisonSide]) -> list[tuple[list[str], list[str]]]:
    """For each side, the parts in which the sides differ, and the parts that they share."""
    models = len({side.info.model.spec for side in sides}) > 1
    parts = [_parts(side, models=models) for side in sides]
    differ = [len(set(kind)) > 1 for kind in zip(*parts, strict=True)]
    return [
        (
            [part for part, differs in zip(own, differ, strict=True) if differs],
            [part for part, differs in zip(own, differ, strict=True) if not differs],
        )
        for own in parts
    ]


def _parts(side: ComparisonSide, *, models: bool) -> tuple[str, ...]:
    """All parts of a side's description; `models` is True if there are several models."""
    info = side.info
    return (
        info.model.spec,
        _weights(info, models=models),
        info.method,
        _layers(side),
        f"head {info.head}" if isinstance(info.head, int) else "",
        f"from {place_of(side.query)}",
        "" if side.target is None else f"for {side.target}",
    )


def _weights(info: SideInfo, *, models: bool) -> str:
    """The origin of a model's weights; empty if the model's name tells it already."""
    spec, weights = info.model.spec, info.model.weights
    if models and (weights == "pretrained" or weights == spec == "random"):
        return ""
    return "random weights" if weights == "random" else weights


def _layers(side: ComparisonSide) -> str:
    last, start = side.info.layer, (side.info.options or {}).get("start_layer", 0)
    if METHODS[side.info.method].merges == "layers" and last > start:
        return f"layers {start} to {last}"
    return f"layer {last}"


def heads(side: ComparisonSide) -> str:
    """The heads of a map in words."""
    info = side.info
    if info.head == "mean":
        return f"mean of {len(info.heads or ())} heads"
    if info.head == "localized":
        return "localized heads"
    return "merged heads" if info.head is None else f"head {info.head}"


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part)
