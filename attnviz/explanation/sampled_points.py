"""Lays the points that queries of deformable attention sample for themselves onto the grid."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from attnviz.attention import AttentionCall
from attnviz.explanation.lattices import cells_at
from attnviz.explanation.layers import Layer
from attnviz.geometry.grid import Layout, TokenGrid

_TOLERANCE = 0.25
"""Input pixels: positions are means of many float32 numbers."""


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
    if call.query_positions is None:
        nowhere = np.full((windows, call.shape[2]), -1, dtype=np.int64)
        queries = Layout(grid.rows, grid.columns, nowhere)
    else:
        queries = _of_queries(call.query_positions.float().cpu().numpy(), grid)
    on_grid = replace(_on_grid(points.float().cpu().numpy(), grid), points=True)
    return Layer(spread, queries, on_grid)


def _of_queries(places: NDArray[np.float32], grid: TokenGrid) -> Layout:
    """The layout of queries at positions (queries, 1, 2): cells as small as their finest level's.

    In a level, tokens follow one another row by row.
    """
    steps = np.diff(places[:, 0], axis=0)
    across = steps[(steps[:, 0] > 0) & (np.abs(steps[:, 1]) < _TOLERANCE), 0]
    stride = round(float(across.min())) if across.size else 0
    whole = stride > 0 and grid.input_width % stride == grid.input_height % stride == 0
    if not whole or stride >= grid.input_width / grid.columns:
        return _on_grid(places, grid)
    # The first token lies in the first cell, if not in its middle: convolutions shift places.
    first = np.nanmin(places, axis=(0, 1))
    rows, columns = grid.input_height // stride, grid.input_width // stride
    return cells_at((places - first) / stride + 0.5, rows, columns)


def _on_grid(places: NDArray[np.float32], grid: TokenGrid) -> Layout:
    """The layout of positions (windows, tokens, 2) on the model's own grid."""
    size = np.array([grid.input_width / grid.columns, grid.input_height / grid.rows])
    return cells_at(places / size, grid.rows, grid.columns)
