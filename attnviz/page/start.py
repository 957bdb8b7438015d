"""What a page shows first."""

from typing import Any

from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import resolve, token_weights
from attnviz.geometry import queries
from attnviz.geometry.queries import Query
from attnviz.output.write_pictures import Drawing


def start(
    observation: Observation,
    number: int,
    heads: tuple[int, ...],
    query: str,
    drawing: Drawing,
) -> dict[str, Any]:
    """The first of some heads of a layer, from a query in words.

    Raises:
        UsageError: it is no single token, or there is none.
    """
    parsed = queries.parse(query)
    if parsed.kind in ("box", "mask"):
        raise UsageError(
            f"--query {parsed}: a page looks from single tokens; give X,Y, mean, cls or registerN"
        )
    (resolved,) = resolve(observation, parsed, [number])
    return {
        "layer": number,
        "head": heads[0],
        "query": _place(observation, number, resolved),
        "scale": drawing.scale,
        "alpha": drawing.alpha,
        "interpolation": drawing.interpolation,
    }


def _place(observation: Observation, number: int, query: Query) -> dict[str, Any]:
    """A definite query as the page knows it."""
    if query.kind in ("mean", "pool"):
        return {"kind": query.kind}
    layout = observation.layers[number].queries
    token = int(token_weights(observation, observation.layers[number], query, None).argmax())
    cell = int(layout.cells.ravel()[token])
    if cell >= 0:
        row, column = divmod(cell, layout.columns)
        return {"kind": "cell", "row": row, "column": column}
    return {"kind": "prefix", "index": int((layout.cells[0, :token] < 0).sum())}
