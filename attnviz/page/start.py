"""Chooses what a page shows first, and describes the picture and the model."""

import os
from pathlib import Path
from typing import Any

from attnviz.errors import UsageError
from attnviz.explanation.observation import Observation
from attnviz.explanation.query_weights import resolve, token_weights
from attnviz.geometry import queries
from attnviz.geometry.queries import Query
from attnviz.models import find_path
from attnviz.output.make_record import check_info, image_info, model_info, readable
from attnviz.output.write_pictures import Drawing


def start(
    observation: Observation,
    number: int,
    heads: tuple[int, ...],
    query: str,
    drawing: Drawing,
) -> dict[str, Any]:
    """The first view: the first of the given heads of a layer, looking from a query.

    Raises:
        UsageError: the query is not a single token, or the layer does not have it.
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
    """A resolved query in the page's form."""
    if query.kind in ("mean", "pool"):
        return {"kind": query.kind}
    layout = observation.layers[number].queries
    token = int(token_weights(observation, observation.layers[number], query, None).argmax())
    cell = int(layout.cells.ravel()[token])
    if cell >= 0:
        row, column = divmod(cell, layout.columns)
        return {"kind": "cell", "row": row, "column": column}
    return {"kind": "prefix", "index": int((layout.cells[0, :token] < 0).sum())}


def described(observation: Observation) -> dict[str, Any]:
    """Picture, model and self-check, as in the record."""
    picture = observation.picture
    return {
        "image": image_info(picture).model_dump(),
        "model": model_info(observation).model_dump(),
        "check": check_info(observation).data(),
    }


def described_for_others(observation: Observation) -> dict[str, Any]:
    """Picture, model and self-check, without the folders of paths."""
    found = described(observation)
    found["image"]["path"] = readable(observation.picture.name)
    for name in ("spec", "weights"):
        found["model"][name] = without_folders(found["model"][name])
    return found


def without_folders(text: str) -> str:
    """A model spec, or weights, without the folders of paths; names on hubs are not paths.

    >>> without_folders("py:/home/me/nets.py:build"), without_folders("hf:facebook/dino-vits16")
    ('py:nets.py:build', 'hf:facebook/dino-vits16')
    """
    if ":" not in text:
        return _name(text)
    source, _, rest = text.partition(":")
    path = find_path(text)
    if path is not None and path != text and rest.startswith(path):
        return f"{source}:{_name(path)}{rest.removeprefix(path)}"
    return f"{source}:{_name(rest)}" if Path(rest).is_absolute() or rest[:1] in (".", "~") else text


def _name(path: str) -> str:
    """The last part of a path."""
    return Path(os.path.abspath(path)).name if "/" in path or os.sep in path else path  # noqa: PTH100
