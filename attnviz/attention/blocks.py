"""Statistics from whole rows of A, a block of queries at a time.

Best where the matrix is small, and on devices that like few large operations. Memory is a block
of rows, never the matrix.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnviz.attention.scores import FLOOR, scores
from attnviz.attention.sweep import Asked, Progress, Sweep

if TYPE_CHECKING:
    from attnviz.attention.call import AttentionCall

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Scores in a block: 16 MiB of float32 on a CPU, 256 MiB on CUDA."""


def sweep(call: "AttentionCall", asked: Asked, progress: Progress | None = None) -> Sweep:
    """All that is asked of a call, block by block."""
    batch, heads, queries, keys = call.shape
    step = max(1, BLOCK.get(call.query.device.type, 1 << 24) // (batch * heads * keys))
    received = None
    if asked.weights is not None:
        received = call.query.new_zeros(batch, heads, len(asked.weights), keys, dtype=torch.float32)
    parts = []
    for start in range(0, queries, step):
        index = torch.arange(start, min(start + step, queries), device=call.query.device)
        parts.append(_block(call, asked, index, received))
        if progress is not None:
            progress(int(index[-1]) + 1, queries)
    lse, entropy, confidence, *others = torch.cat(parts, dim=-1).unbind(0)
    names = (("prefix_mass", asked.prefix), ("distance", asked.positions))
    wanted = [name for name, given in names if given is not None]
    wanted += ["sum_of_squares"] if asked.squares else []
    return Sweep(
        lse, entropy, confidence, **dict(zip(wanted, others, strict=True)), received=received
    )


def _block(call: "AttentionCall", asked: Asked, queries: Tensor, received: Tensor | None) -> Tensor:
    """Statistics of some rows, (lse, entropy, confidence, …, B, H, n); adds to `received`."""
    s = scores(call, queries)
    top = s.amax(-1, keepdim=True)
    valid = top > FLOOR / 2
    if asked.query_mask is not None:
        valid = valid & asked.query_mask[queries, None]
    s.sub_(top)
    a = s.softmax(-1)
    confidence = a.amax(-1)
    surplus = -confidence.log()  # lse − top
    rows = [top[..., 0] + surplus, (surplus - (a * s).sum(-1)).clamp_min(0), confidence]
    if asked.prefix is not None:
        rows.append(a[..., asked.prefix].sum(-1))
    if asked.positions is not None:
        rows.append(_distance(s, a, asked, queries))
    if asked.squares:
        rows.append(a.square().sum(-1))
    if received is not None and asked.weights is not None:
        # 0 · weight for rows that count nowhere
        received += (asked.weights[:, queries].float() * valid[..., 0][:, :, None]) @ a
    return torch.stack(rows).masked_fill_(~valid[..., 0], 0.0)


def _distance(s: Tensor, a: Tensor, asked: Asked, queries: Tensor) -> Tensor:
    """Σ_{j∈G} Â_ij·d_ij, (B, H, n); a softmax over G alone, however little G gets of A."""
    assert asked.positions is not None  # the caller has looked
    of_queries, of_keys = (places.float() for places in asked.positions)
    if asked.grid is not None and not bool(asked.grid.all()):
        of_keys, s = of_keys[asked.grid], s[..., asked.grid]
        a = s.softmax(-1).masked_fill_(s <= FLOOR / 2, 0.0)
    difference = of_queries[queries][:, None] - of_keys  # (n, keys of G, 2)
    return (a * difference.square().sum(-1).sqrt()).sum(-1)
