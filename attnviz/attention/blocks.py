"""Statistics from whole rows of A, a block of queries at a time.

Best where the matrix is small, and on devices that like few large operations. Memory is a block
of rows, never the matrix.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnviz.attention.scores import FLOOR, LOG2E, scores
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
    s = scores(call, queries, unit=LOG2E)
    top = s.amax(-1, keepdim=True)
    valid = ~(top[..., 0] <= FLOOR / 2)  # NaN stays NaN
    if asked.query_mask is not None:
        valid = valid & asked.query_mask[queries]
    power = s.sub_(top).exp2()  # (B, H, n, Nk), A times `total`
    total = power.sum(-1)
    bits = total.log2()
    entropy = (bits - torch.linalg.vecdot(s, power) / total) / LOG2E
    rows = [(top[..., 0] + bits) / LOG2E, entropy.clamp_min_(0), 1 / total]
    if asked.prefix is not None:
        rows.append(power @ asked.prefix.float() / total)
    if asked.positions is not None:
        rows.append(_distance(s, power, asked, queries))
    if asked.squares:
        rows.append(power.square().sum(-1) / total.square())
    if received is not None and asked.weights is not None:
        share = asked.weights[:, queries].float() * (valid / total)[:, :, None]  # (B, H, R, n)
        received += share @ power
    return torch.stack(rows).masked_fill_(~valid, 0.0)


def _distance(s: Tensor, power: Tensor, asked: Asked, queries: Tensor) -> Tensor:
    """Σ_{j∈G} Â_ij·d_ij, (B, H, n)."""
    assert asked.positions is not None  # the caller has looked
    of_queries, of_keys = (places.float() for places in asked.positions)
    x, y = (of_queries[queries][:, None] - of_keys).unbind(-1)  # (n, Nk)
    far = x.square().addcmul_(y, y).sqrt_()
    inside = total = power.sum(-1)
    if asked.grid is not None:
        far, inside = far * asked.grid, power @ asked.grid.float()
        if bool((inside < 1e-3 * total).any()):
            # Others take nearly all: what little G gets would be lost beside the largest score.
            s = s.masked_fill(~asked.grid, FLOOR)
            top = s.amax(-1, keepdim=True)
            power = s.sub_(top).exp2_() * (top > FLOOR / 2)
            inside = power @ asked.grid.float()
    path: Tensor = torch.linalg.vecdot(power, far)
    return (path / inside).nan_to_num_(nan=0.0)
