"""The sides of a comparison: the maps of explanations, without the runs that they came from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz import records
from attnviz.comparison.comparison_record import SideInfo
from attnviz.drawing.scale import Range
from attnviz.geometry import Placement
from attnviz.pipeline import Answer, Explanation, ResolvedQuestion, make_record
from attnviz.pipeline.naming import in_words
from attnviz.queries import Query
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

    said: SideInfo
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
    said = SideInfo(
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
        map=records.MapInfo(**asdict(describe(values, first.drawn, first.placement))),
    )
    target = None if question.target is None else in_words(question.target.target)
    return ComparisonSide(said, first.query, target, values, first.drawn, first.placement)
