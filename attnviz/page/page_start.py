"""What a page shows first."""

from collections.abc import Sequence
from typing import Any

from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import resolve, token_weights
from attnviz.geometry import queries
from attnviz.geometry.queries import Query
from attnviz.output.write_pictures import Drawing
from attnviz.page.page_words import PageWord


def start(
    observation: Observation,
    head: tuple[int, int],
    query: str,
    drawing: Drawing,
    words: Sequence[PageWord],
) -> dict[str, Any]:
    """The first view: a head by its layer and number, looking from a query.

    Raises:
        UsageError: the query is not a single token, or the layer does not have it.
    """
    parsed = queries.parse(query)
    if parsed.kind in ("box", "mask", "objects"):
        raise UsageError(
            f"--query {parsed}: a page looks from single tokens; give X,Y, mean, cls or registerN"
        )
    layer, number = head
    return {
        "layer": layer,
        "head": number,
        "query": _word(observation, layer, parsed, words)
        if words
        else _place(observation, layer, parsed),
        "scale": drawing.scale,
        "alpha": drawing.alpha,
        "interpolation": drawing.interpolation,
    }


def _word(
    observation: Observation, number: int, query: Query, words: Sequence[PageWord]
) -> dict[str, Any]:
    """A word in the page's form; by default the first of the answer."""
    if query.kind in ("auto", "words"):
        return {"kind": "prefix", "index": 0}
    if query.kind not in ("word", "prompt_word"):
        raise UsageError(
            f"--query {query}: a page of a model with words looks from words; give word:NAME or "
            "prompt:NAME"
        )
    (resolved,) = resolve(observation, query, [number])
    of = "answer" if query.kind == "word" else "prompt"
    rows = [(word.of, word.rows) for word in words]
    return {"kind": "prefix", "index": rows.index((of, resolved.tokens))}


def _place(observation: Observation, number: int, query: Query) -> dict[str, Any]:
    """A query in the page's form."""
    (query,) = resolve(observation, query, [number])
    if query.kind in ("mean", "pool"):
        return {"kind": query.kind}
    layout = observation.layers[number].queries
    token = int(token_weights(observation, observation.layers[number], query, None).argmax())
    cell = int(layout.cells.ravel()[token])
    if cell < 0 and layout.windows > 1:  # an object query that samples points of its own
        return {"kind": "prefix", "index": token} if query.found else {"kind": "pool"}
    if cell >= 0:
        row, column = divmod(cell, layout.columns)
        return {"kind": "cell", "row": row, "column": column}
    return {"kind": "prefix", "index": int((layout.cells[0, :token] < 0).sum())}
