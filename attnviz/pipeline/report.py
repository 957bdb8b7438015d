"""From an explanation to its record."""

import os
from dataclasses import asdict

from attnviz import records
from attnviz.drawing.scale import Range
from attnviz.pipeline.explanation import Explanation
from attnviz.pipeline.observation import Observation
from attnviz.queries import Query
from attnviz.statistics.maps import describe


def make_record(
    explanation: Explanation,
    *,
    scales: list[list[Range]] | None = None,
    files: list[list[str]] | None = None,
) -> records.Record:
    """All that is said about one picture: CONTRACT §4.

    Args:
        explanation: what `explain` gave.
        scales: the range that each map was drawn with, [layer][head].
        files: the file that each map was drawn to, [layer][head].
    """
    seen = explanation.observation
    return records.Record(
        image=records.Image(
            path=_readable(seen.picture.path),
            width=seen.picture.width,
            height=seen.picture.height,
        ),
        model=_model(seen),
        tokens=_tokens(seen),
        query=_query(explanation.query),
        method=explanation.method,
        check=records.Check(verified=not seen.unexplained, max_error=max(seen.errors)),
        heads=[
            _head(explanation, i, j, scales, files)
            for i in range(len(explanation.layers))
            for j in range(len(explanation.heads))
        ],
    )


def _head(
    explanation: Explanation,
    i: int,
    j: int,
    scales: list[list[Range]] | None,
    files: list[list[str]] | None,
) -> records.Head:
    seen = explanation.observation
    numbers = {name: float(values[i, j]) for name, values in explanation.numbers.items()}
    drawn = describe(explanation.maps[i, j], seen.drawn, seen.placement)
    return records.Head(
        layer=explanation.layers[i],
        head=explanation.heads[j],
        **numbers,
        map=records.MapInfo(**asdict(drawn)),
        scale=None if scales is None else records.ScaleInfo(**asdict(scales[i][j])),
        file=None if files is None else files[i][j],
    )


def _model(seen: Observation) -> records.ModelInfo:
    model = seen.model
    return records.ModelInfo(
        spec=model.spec,
        weights=_readable(model.weights),
        layers=model.layers,
        heads=model.heads,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        features=model.features,
        seed=model.seed,
    )


def _tokens(seen: Observation) -> records.Tokens:
    grid = seen.placement.grid
    return records.Tokens(
        kind=seen.model.tokens,
        rows=grid.rows,
        columns=grid.columns,
        patch=grid.patch,
        prefix=grid.prefix,
        input_width=grid.input_width,
        input_height=grid.input_height,
        fit=seen.placement.fit,
        masked=seen.masked,
    )


def _query(query: Query) -> records.QueryInfo:
    names = ("x", "y") if query.kind == "point" else ("x0", "y0", "x1", "y1")
    numbers = dict(zip(names, query.numbers, strict=False))
    path = None if query.path is None else _readable(query.path)
    return records.QueryInfo.model_validate({"kind": query.kind, "path": path, **numbers})


def _readable(path: str) -> str:
    """A path that may hold bytes which are no text, as text."""
    return os.fsencode(path).decode("utf-8", "replace")
