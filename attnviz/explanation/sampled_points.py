"""Lays the points that queries of deformable attention sample for themselves onto the grid."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.explanation.layers import Layer
from attnviz.geometry.grid import Layout, TokenGrid


def sampled_layer(call: AttentionCall, grid: TokenGrid) -> Layer:
    """A call with points of their own for each query and head, as a layer of the model's own grid.

    A point counts for the cell that it lies in. Each query is a window whose keys are the points of
    all heads; the weights of a head are 0 at those of the others.
    """
    assert call.points is not None  # the caller checks this
    windows, heads, _, keys = call.shape
    points = call.points.reshape(windows, heads * keys, 2)
    own = torch.eye(heads, device=call.query.device).repeat_interleave(keys, 1)  # (H, H·keys)
    weights = call.matrix().tile(1, 1, 1, heads) * own[:, None]
    spread = replace(
        call,
        key=call.key.new_empty(windows, 1, heads * keys, 0),
        value=call.value.reshape(windows, 1, heads * keys, -1),
        bias=weights.log() if call.sums_to_one else None,
        weights=None if call.sums_to_one else weights,
    )
    queries = _cells(call.query_positions, grid)
    if queries is None:
        queries = np.full((windows, call.shape[2]), -1, dtype=np.int64)
    found = _cells(points, grid)
    assert found is not None
    layouts = (Layout(grid.rows, grid.columns, cells) for cells in (queries, found))
    return Layer(spread, *layouts)


def _cells(positions: Tensor | None, grid: TokenGrid) -> NDArray[np.int64] | None:
    """The cell that each position, (…, 2), lies in; −1 for nowhere."""
    if positions is None:
        return None
    places = positions.float().cpu().numpy()
    on_picture = np.isfinite(places).all(-1)
    x, y = np.where(on_picture[..., None], places, 0).transpose(-1, *range(places.ndim - 1))
    column = (x * grid.columns / grid.input_width).astype(np.int64).clip(0, grid.columns - 1)
    row = (y * grid.rows / grid.input_height).astype(np.int64).clip(0, grid.rows - 1)
    cells: NDArray[np.int64] = np.where(on_picture, row * grid.columns + column, -1)
    return cells
