"""Layers that tests are made of: windows, pyramids, pools, tokens behind the grid."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import attnviz
from attnviz.explanation.inspection import Calls
from attnviz.explanation.layers import Layer
from attnviz.geometry.grid import Layout
from attnviz.geometry.placement import place
from attnviz.io.picture import Picture
from attnviz.models.model import Model

ROWS, COLUMNS, PATCH = 8, 12, 8
Cells = NDArray[np.int64]


def grid(rows: int, columns: int) -> Cells:
    """Cells of a grid, (rows, columns)."""
    return np.arange(rows * columns).reshape(rows, columns)


def windows(rows: int, columns: int, *, side: int, shift: int = 0) -> Cells:
    """Cells in windows of side × side, rolled by `shift`, padded to whole windows with −1."""
    padded = np.full((-(-rows // side) * side, -(-columns // side) * side), -1)
    padded[:rows, :columns] = grid(rows, columns)
    rolled = np.roll(padded, (-shift, -shift), (0, 1))
    return np.array(
        [
            rolled[y : y + side, x : x + side].ravel()
            for y in range(0, rolled.shape[0], side)
            for x in range(0, rolled.shape[1], side)
        ]
    )


def layer(
    queries: tuple[int, int, Cells],
    keys: tuple[int, int, Cells],
    *,
    heads: int = 3,
    seed: int = 0,
    part: NDArray[np.bool_] | None = None,
) -> Layer:
    """Random q, k, v and a bias over layouts (rows, columns, cells); keys of `part` alone count.

    The bias pushes half of each window away from the other, as a shifted window does.
    """
    of_queries, of_keys = Layout(*queries), Layout(*keys)
    stream = torch.Generator().manual_seed(seed)
    count, n = of_queries.cells.shape
    m = of_keys.cells.shape[1]
    q = 2 * torch.randn(count, heads, n, 5, generator=stream)
    k, v = torch.randn(2, count, heads, m, 5, generator=stream).unbind()
    bias = torch.randn(1, heads, n, m, generator=stream).repeat(count, 1, 1, 1)
    bias[-1, :, : n // 2, m // 2 :] -= 100
    if part is not None:
        kept = of_keys.of_tokens(part.ravel(), np.True_)
        bias.masked_fill_(~torch.from_numpy(kept)[:, None, None], -torch.inf)
    output = nn.functional.scaled_dot_product_attention(q, k, v, bias, scale=0.7)
    call = attnviz.AttentionCall(q, k, v, 0.7, bias=bias, output=output)
    return Layer(call, of_queries, of_keys)


def one_of_each() -> dict[str, Layer]:
    """A layer of every kind over an input of 8 × 12 cells of 8 pixels."""
    whole, fine = grid(ROWS, COLUMNS).reshape(1, -1), (ROWS, COLUMNS)
    coarse = (ROWS // 2, COLUMNS // 2)
    behind = np.concatenate([[[-1]], whole, [[-1] * 3]], axis=1)
    pad = (4, 6, windows(4, 6, side=4))
    return {
        "plain": layer((*fine, whole), (*fine, whole)),
        "windows": layer(*[(*fine, windows(*fine, side=4))] * 2, heads=2, seed=1),
        "shifted": layer(*[(*fine, windows(*fine, side=4, shift=2))] * 2, heads=2, seed=2),
        "padded": layer(pad, pad, heads=4, seed=3),
        "pyramid": layer((*fine, whole), (*coarse, grid(*coarse).reshape(1, -1)), seed=4),
        "pyramid windows": layer(
            (*fine, windows(*fine, side=4)), (*coarse, windows(*coarse, side=2)), heads=1, seed=5
        ),
        "behind": layer((*fine, behind), (*fine, behind), seed=6),
        "pool": layer((1, 1, np.array([[-1]])), (*fine, whole), heads=4, seed=7),
    }


def observation(
    *layers: Layer, part: NDArray[np.bool_] | None = None, class_token: bool = False
) -> attnviz.Observation:
    """A picture of 192×128 pixels that was seen as 8 × 12 cells by a model of these layers."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 192, 3)).astype(np.uint8)
    model = Model(
        spec="made up",
        weights="random",
        module=nn.Identity(),
        layers=None,
        heads=None,
        features=None,
        tokens="patches",
        patch=PATCH,
        size=78,
        class_token=class_token,
    )
    placement = place(192, 128, size=78, patch=PATCH)
    taking_part = np.ones(ROWS * COLUMNS, dtype=np.bool_) if part is None else part.ravel()
    picture, numbered = Picture("made.png", pixels), dict(enumerate(layers))
    return attnviz.Observation(
        picture, model, placement, Calls(len(layers), {}, {}), numbered, taking_part
    )
