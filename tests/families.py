"""The tables of recorded models in docs/models.md.

`WRITE_TABLES=1 pytest tests/models/test_recorded.py` (and its like for timm) writes what is found.
"""

import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attnviz
from attnviz.geometry.grid import Layout

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def row(name: str, seen: attnviz.Observation) -> str:
    """A line of the table: calls, heads, grids of queries (and of keys), other tokens, error."""
    layers = list(seen.layers.values())
    grids = [(_grid(layer.queries), _grid(layer.keys), layer.call.shape[0]) for layer in layers]
    said = [_said(*grid) for grid in dict.fromkeys(grids)]
    outside = {layer.keys.outside for layer in layers}
    heads = {layer.call.heads for layer in layers}
    error = max(seen.errors.values())
    power = math.floor(math.log10(error)) if error > 0 else 0
    cells = (
        name,
        str(seen.count),
        _range(heads),
        f"{seen.placement.grid.input_width}×{seen.placement.grid.input_height}",
        ", ".join(said),
        _range(outside),
        f"{math.ceil(error / 10**power)}e{power}" if error > 0 else "0",
    )
    return f"| {' | '.join(cells)} |"


def check_row(table: str, name: str, seen: attnviz.Observation) -> None:
    """Whether the documentation has this row, but for the error; writes it if told to."""
    found = row(name, seen)
    text = PAGE.read_text(encoding="utf-8")
    part = re.search(rf"(?s)<!-- {table} -->\n(.*?)<!-- end -->", text)
    assert part is not None
    old = next((line for line in part[1].splitlines() if line.startswith(f"| {name} |")), None)
    if os.environ.get("WRITE_TABLES"):
        new = part[1].replace(old, found) if old else part[1] + found + "\n"
        PAGE.write_text(text[: part.start(1)] + new + text[part.end(1) :], encoding="utf-8")
        return
    assert old is not None, f"add to docs/models.md: {found}"
    assert old.rpartition(" | ")[0] == found.rpartition(" | ")[0]


def _grid(layout: Layout) -> str:
    return f"{layout.columns}×{layout.rows}" if layout.on_picture.any() else "own query"


def _said(queries: str, keys: str, windows: int) -> str:
    said = queries if queries == keys else f"{queries} → {keys}"
    return said if windows == 1 else f"{said} in {windows} windows"


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}–{high}"


def state(output: Any) -> Tensor:
    """The last hidden state of what a model gives."""
    found: Tensor = getattr(output, "last_hidden_state", output)
    return found


def check_predictions(seen: attnviz.Observation) -> None:
    """Whether the model predicts the same, bit by bit, while it is recorded."""
    pixels = seen.model.pixels(seen.picture, seen.placement)
    with torch.no_grad():
        expected = seen.model.module(pixels)
        with attnviz.record() as recording:
            found = seen.model.module(pixels)
    assert torch.equal(state(found), state(expected))
    assert len(recording) == seen.count
