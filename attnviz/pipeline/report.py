"""From an explanation to its record."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import repeat

from attnviz import records
from attnviz.drawing.scale import Range
from attnviz.pipeline.explanation import Answer, Explanation
from attnviz.pipeline.observation import Observation
from attnviz.queries import Query
from attnviz.statistics.maps import describe


def make_record(
    explanation: Explanation,
    *,
    scales: Sequence[Range] | None = None,
    files: Sequence[str] | None = None,
) -> records.Record:
    """All that is said about one picture: CONTRACT §4.

    Args:
        explanation: what `explain` gave.
        scales: the range that each answer was drawn with.
        files: the file that each answer was drawn to.
    """
    seen, answers = explanation.observation, explanation.answers
    return records.Record(
        image=records.Image(
            path=readable(seen.picture.path),
            width=seen.picture.width,
            height=seen.picture.height,
        ),
        model=_model(seen),
        tokens=_tokens(seen, answers[-1]),
        query=_query(explanation.query),
        method=explanation.method,
        check=records.Check(verified=not seen.unexplained, max_error=max(seen.errors.values())),
        heads=[
            _head(answer, scale, file, differs=answer.query != explanation.query)
            for answer, scale, file in zip(
                answers,
                scales or repeat(None, len(answers)),
                files or repeat(None, len(answers)),
                strict=True,
            )
        ],
    )


def _head(answer: Answer, scale: Range | None, file: str | None, *, differs: bool) -> records.Head:
    """One map; its query is told where it `differs` from the record's."""
    drawn = describe(answer.values, answer.drawn, answer.placement)
    rows, columns = answer.values.shape
    return records.Head(
        layer=answer.layer,
        head=answer.head,
        **answer.numbers,
        rows=rows,
        columns=columns,
        map=records.MapInfo(**asdict(drawn)),
        query=_query(answer.query) if differs else None,
        scale=None if scale is None else records.ScaleInfo(**asdict(scale)),
        file=file,
    )


def _model(seen: Observation) -> records.ModelInfo:
    model = seen.model
    return records.ModelInfo(
        spec=model.spec,
        weights=readable(model.weights),
        layers=seen.count,
        heads=max(layer.call.heads for layer in seen.layers.values()),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        features=model.features,
        seed=model.seed,
    )


def _tokens(seen: Observation, answer: Answer) -> records.Tokens:
    """The grid of one answer."""
    grid = answer.placement.grid
    return records.Tokens(
        kind=seen.model.tokens,
        rows=grid.rows,
        columns=grid.columns,
        patch=grid.patch,
        prefix=grid.prefix,
        input_width=grid.input_width,
        input_height=grid.input_height,
        fit=answer.placement.fit,
        masked=seen.masked,
    )


def _query(query: Query) -> records.QueryInfo:
    names = ("x", "y") if query.kind == "point" else ("x0", "y0", "x1", "y1")
    numbers = dict(zip(names, query.numbers, strict=False))
    path = None if query.path is None else readable(query.path)
    return records.QueryInfo.model_validate({"kind": query.kind, "path": path, **numbers})


def readable(path: str) -> str:
    """A path that may hold bytes which are no text, as text."""
    return os.fsencode(path).decode("utf-8", "replace")
