"""The sides of a comparison: the maps of explanations, without the runs that they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.comparison.comparison_record import SideInfo
from attnviz.drawing.scale import Range
from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
from attnviz.explanation.naming import in_words
from attnviz.geometry.placement import Placement
from attnviz.geometry.queries import Query
from attnviz.methods import METHODS
from attnviz.output import records
from attnviz.output.make_record import make_record
from attnviz.statistics.maps import describe


@dataclass(frozen=True, eq=False)
class ComparisonSide:
    """One map, and what is said of it; nothing of it holds a model or its recording.

    Attributes:
        said: as in the record; of what depends on the other sides, nothing yet.
        query: the question as its layer was asked it.
        target: of its gradient, in words; None where none was taken.
        values: (rows, columns) float32 weights on its own grid.
        drawn: (rows, columns), False for cells that are masked or lie in padding.
        placement: where its cells lie on the picture.
    """

    info: SideInfo
    query: Query
    target: str | None
    values: NDArray[np.float32]
    drawn: NDArray[np.bool_]
    placement: Placement

    @property
    def scale(self) -> Range:
        """The weights that its colours span: from the smallest drawn one to the largest."""
        return span(self.values[self.drawn])


def span(weights: NDArray[np.float32]) -> Range:
    """The range of some weights, (n,), as a map of them is drawn; of none it is flat."""
    if not len(weights):
        return Range("head", 0.0, 0.0)
    return Range("head", float(weights.min()), float(weights.max()))


def sides_of(explanation: Explanation) -> list[ComparisonSide]:
    """A side for each question and layer: the mean of the heads that were asked.

    A mean of float32 weights in float64; where there is one head alone, or the method merges them,
    it is that map itself.
    """
    record = make_record(explanation)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, answer in enumerate(explanation.answers):
        groups.setdefault((answer.question, answer.layer), []).append(index)
    return [
        _side(
            explanation.questions[question],
            record,
            [explanation.answers[index] for index in group],
            record.heads[group[0]],
        )
        for (question, _), group in groups.items()
    ]


def _side(
    question: ResolvedQuestion,
    record: records.Record,
    answers: Sequence[Answer],
    head: records.Head,
) -> ComparisonSide:
    """The mean of some answers, of which `head` says what they share."""
    first = answers[0]
    mean = np.stack([answer.values for answer in answers]).mean(0, dtype=np.float64)
    values = mean.astype(np.float32)
    several = len(answers) > 1
    info = SideInfo(
        model=record.model,
        method=record.method,
        options=record.options,
        layer=first.layer,
        head="mean" if several else first.head,
        heads=[answer.head for answer in answers if answer.head is not None] if several else None,
        query=head.query or record.query,
        target=head.target or record.target,
        check=record.check,
        rows=head.rows,
        columns=head.columns,
        fit=first.placement.fit,
        map=records.MapInfo(**vars(describe(values, first.drawn, first.placement))),
    )
    target = None if question.target is None else in_words(question.target.target)
    return ComparisonSide(info, first.query, target, values, first.drawn, first.placement)


def names(sides: Sequence[ComparisonSide]) -> list[str]:
    """A name for each side: those of its parts in which not all are alike.

    Two layers of one model are `layer 0` and `layer 5`; a model and its control are `pretrained`
    and `random weights`.
    """
    return [_joined(of_side) for of_side, _ in _split(sides)]


def shared(sides: Sequence[ComparisonSide]) -> str:
    """The parts in which all sides are alike."""
    return _joined(_split(sides)[0][1])


def _split(sides: Sequence[ComparisonSide]) -> list[tuple[list[str], list[str]]]:
    """Of each side the parts in which sides differ, and those in which they do not."""
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
    """All that a side is, in words; `models` says whether there are several."""
    info = side.info
    return (
        info.model.spec,
        _weights(info, models=models),
        info.method,
        _layers(side),
        f"head {info.head}" if isinstance(info.head, int) else "",
        f"from {'all tokens' if side.query.kind == 'all' else side.query}",
        "" if side.target is None else f"for {side.target}",
    )


def _weights(info: SideInfo, *, models: bool) -> str:
    """Where a model has its weights from; what its name says already need not be said."""
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
    """Of which heads a map is, in words."""
    info = side.info
    if info.head == "mean":
        return f"mean of {len(info.heads or ())} heads"
    return "merged heads" if info.head is None else f"head {info.head}"


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part)
