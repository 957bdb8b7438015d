"""Computes statistics from whole rows of A, a block of queries at a time.

This is fastest for small matrices, and on devices that prefer few large operations. Memory is one
block of rows, never the matrix. A block is some items of the batch with all of their rows, for
example windows; or, if that is too large, some rows of one item.
"""

import math
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.scores import FLOOR, LOG2E, scores
from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest

BLOCK = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Scores in a block: 16 MiB of float32 on a CPU, 256 MiB on CUDA."""


def sweep(call: CallTensors, request: SweepRequest, progress: Progress | None = None) -> Sweep:
    """All requested statistics of a call, block by block."""
    batch, heads, queries, keys = call.shape
    together = max(1, _size(call) // (heads * queries * keys))
    if batch <= together:
        return _rows(call, request, progress)
    parts = []
    for start in range(0, batch, together):
        items = slice(start, min(start + together, batch))
        parts.append(_rows(call.batch(items), request.batch(items)))
        if progress is not None:
            progress(items.stop * queries, batch * queries)
    return _joined(parts)


def explicit_sweep(call: CallTensors, request: SweepRequest) -> Sweep:
    """The sweep of a call whose rows do not sum to 1: what needs a distribution is NaN."""
    assert call.weights is not None  # the caller checks this
    nothing = call.weights.new_full(call.shape[:3], math.nan, dtype=torch.float32)
    received = None
    if request.weights is not None:
        shares = request.weights.float()
        if request.query_mask is not None:
            shares = shares * request.query_mask.unsqueeze(-2)
        received = shares.unsqueeze(-3) @ call.weights.float()
    return Sweep(
        lse=nothing,
        entropy=nothing,
        confidence=nothing,
        prefix_mass=None if request.prefix is None else nothing,
        distance=None if request.positions is None else nothing,
        sum_of_squares=call.weights.float().square().sum(-1) if request.squares else None,
        received=received,
    )


def _joined(parts: list[Sweep]) -> Sweep:
    """Sweeps of parts of the batch as one."""
    joined: dict[str, Any] = {}
    for name in (field.name for field in fields(Sweep)):
        found = [getattr(part, name) for part in parts]
        joined[name] = None if found[0] is None else torch.cat(found)
    return Sweep(**joined)


def _size(call: CallTensors) -> int:
    """Scores of a block."""
    return BLOCK.get(call.query.device.type, 1 << 24)


def _rows(call: CallTensors, request: SweepRequest, progress: Progress | None = None) -> Sweep:
    """All requested statistics of a call, some rows of all items at a time."""
    batch, heads, queries, keys = call.shape
    request = request.batch(0) if batch == 1 else request
    step = max(1, _size(call) // (batch * heads * keys))
    received = None
    if request.weights is not None:
        received = call.query.new_zeros(
            batch, heads, request.weights.shape[-2], keys, dtype=torch.float32
        )
    parts = []
    for start in range(0, queries, step):
        index = torch.arange(start, min(start + step, queries), device=call.query.device)
        parts.append(_block(call, request, index, received))
        if progress is not None:
            progress(int(index[-1]) + 1, queries)
    lse, entropy, confidence, *others = torch.cat(parts, dim=-1).unbind(0)
    names = (("prefix_mass", request.prefix), ("distance", request.positions))
    present = [name for name, given in names if given is not None]
    present += ["sum_of_squares"] if request.squares else []
    return Sweep(
        lse, entropy, confidence, **dict(zip(present, others, strict=True)), received=received
    )


def _block(
    call: CallTensors, request: SweepRequest, queries: Tensor, received: Tensor | None
) -> Tensor:
    """Statistics of some rows, (lse, entropy, confidence, …, B, H, n); adds to `received`."""
    s = scores(call, queries, unit=LOG2E)
    top = s.amax(-1, keepdim=True)
    valid = ~(top[..., 0] <= FLOOR / 2)  # NaN stays NaN
    if request.query_mask is not None:
        valid = valid & request.query_mask[..., queries].unsqueeze(-2)
    power = s.sub_(top).exp2()  # (B, H, n, Nk), A times `total`
    total = power.sum(-1)
    bits = total.log2()
    entropy = (bits - torch.linalg.vecdot(s, power) / total) / LOG2E
    rows = [(top[..., 0] + bits) / LOG2E, entropy.clamp_min_(0), 1 / total]
    if request.prefix is not None:
        rows.append(_sum(power, request.prefix) / total)
    if request.positions is not None:
        rows.append(_distance(s, power, request, queries))
    if request.squares:
        rows.append(power.square().sum(-1) / total.square())
    if received is not None and request.weights is not None:
        weights = request.weights[..., queries].float().unsqueeze(-3)  # (B or 1, 1, R, n)
        share = weights * (valid / total)[:, :, None]  # (B, H, R, n)
        received += share @ power
    return torch.stack(rows).masked_fill_(~valid, 0.0)


def _distance(s: Tensor, power: Tensor, request: SweepRequest, queries: Tensor) -> Tensor:
    """Σ_{j∈G} Â_ij·d_ij, (B, H, n)."""
    assert request.positions is not None  # the caller checks this
    of_queries, of_keys = (places.float() for places in request.positions)
    apart = of_queries[..., queries, None, :] - of_keys[..., None, :, :]
    x, y = apart.unsqueeze(-4).unbind(-1)  # (B or 1, 1, n, Nk)
    far = x.square().addcmul_(y, y).sqrt_()
    inside = total = power.sum(-1)
    if request.grid is not None:
        grid = request.grid[..., None, None, :]
        far, inside = far * grid, _sum(power, request.grid)
        if bool((inside < 1e-3 * total).any()):
            # Other keys get nearly all attention: rounding would lose G's small share of it.
            s = s.masked_fill(~grid, FLOOR)
            top = s.amax(-1, keepdim=True)
            power = s.sub_(top).exp2_() * (top > FLOOR / 2)
            inside = _sum(power, request.grid)
    path: Tensor = torch.linalg.vecdot(power, far)
    return (path / inside).nan_to_num_(nan=0.0)


def _sum(power: Tensor, keys: Tensor) -> Tensor:
    """Σ over some keys, (Nk,) or (B, Nk) boolean, of (B, H, n, Nk): (B, H, n)."""
    some = keys.float()
    if keys.ndim == 1:
        return power @ some
    batch, heads, rows, _ = power.shape
    return torch.bmm(power.flatten(1, 2), some[:, :, None]).view(batch, heads, rows)
