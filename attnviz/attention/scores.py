"""Scores and weights of chosen queries, and what all pairs of heads have in common.

Only this file applies scale, bias, causality and groups. A is computed for all heads, a block of
rows at a time: memory is one block; time is queries × keys × pairs of heads.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.sweep import CallTensors
from attnviz.errors import RecordingError

FLOOR = -1e30
"""The score of a masked pair: finite, so that 0 · score is 0."""


LOG2E = math.log2(math.e)
"""The factor to scores in units of ln 2, for exp2, which is the fastest exponential."""


def scores(
    call: CallTensors, queries: Tensor, unit: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """unit·(scale·q·kᵀ + bias) of chosen queries in float32, (B, H, len(queries), Nk).

    `queries` are query numbers. The score is `FLOOR` if a key takes no part. `out` is a buffer of
    the result's shape.
    """
    query = call.query[:, :, queries].float() * (call.scale * unit)
    result = _products(query, call.key, out)
    bias = bias_rows(call.bias, queries)
    if bias is not None and bias.dtype == torch.bool:
        result.masked_fill_(~bias, FLOOR)
    elif bias is not None:
        # A very low finite bias takes part, as in the fused kernel; −∞ does not.
        result.add_(bias.float(), alpha=unit).clamp_(min=0.4 * FLOOR)
        result.masked_fill_(bias.isneginf(), FLOOR)
    if call.causal:
        later = torch.arange(call.key.shape[2], device=queries.device) > queries[:, None]
        result.masked_fill_(later, FLOOR)
    return result


def weight_gradients(call: CallTensors, queries: Tensor, out: Tensor | None = None) -> Tensor:
    """∇A of chosen queries, dO·vᵀ in float32, (B, H, len(queries), Nk).

    If heads are mixed after the softmax, this is Σ_g weight[g, h]·∇A'_g, with ∇A' of the mixed
    weights. `out` is a buffer of the result's shape, used if there is no mixing.

    Raises:
        RecordingError: the call has no gradient.
    """
    if call.gradient is None:
        raise RecordingError("this layer has no gradient of a score; record with gradients=True")
    rows = call.gradient[:, :, queries].float()
    if call.mixing is None:
        return _products(rows, call.value, out)
    return torch.einsum("gh,bgij->bhij", call.mixing[0].float(), _products(rows, call.value))


def _products(rows: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """rows·columnsᵀ in float32, (B, H, n, Nk), from (B, H, n, D) and (B, Hk, Nk, D)."""
    batch, heads, count, dim = rows.shape
    _, groups, keys, _ = columns.shape
    # The heads of a group share their keys, so one product computes all of their rows.
    into = None if out is None else out.view(batch * groups, -1, keys)
    of_keys = columns.float().flatten(0, 1).transpose(1, 2)
    found = torch.bmm(rows.reshape(batch * groups, heads // groups * count, dim), of_keys, out=into)
    return found.view(batch, heads, count, keys)


def rows(call: CallTensors, queries: Tensor) -> Tensor:
    """The softmax of `scores`, (B, H, len(queries), Nk); a row without any key is 0.

    Of an explicit call whose rows do not sum to 1, the weights themselves.
    """
    if call.weights is not None:
        return call.weights[:, :, queries].float()
    s = scores(call, queries)
    return s.softmax(-1).masked_fill_(s <= FLOOR / 2, 0.0)


def bias_rows(bias: Tensor | None, queries: Tensor | slice) -> Tensor | None:
    """The rows of a bias, (…, 1 or Nq, Nk), that belong to chosen queries."""
    return bias if bias is None or bias.ndim < 2 or bias.shape[-2] == 1 else bias[..., queries, :]


@contextmanager
def float32_no_grad(tensor: Tensor) -> Iterator[None]:
    """Compute in float32 and without gradients, inside any autocast or grad mode of the caller."""
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield


_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Pairs:
    """Similarity and divergence of every pair of heads, float32 on the CPU.

    Attributes:
        products: ⟨A^h, A^g⟩ = Σ_ij A^h_ij A^g_ij over the rows that count, (H, H).
        divergence: Σ_i w_i JS(A^h_i ‖ A^g_i) in nats, (H, H), 0 on the diagonal.
    """

    products: Tensor
    divergence: Tensor


def pairs(call: CallTensors, weights: Tensor) -> Pairs:
    """Compare heads over the queries with a weight that is not 0.

    The divergence is NaN if rows do not sum to 1.

    JS(p ‖ q) = H((p + q)/2) − (H(p) + H(q))/2, H the entropy in nats: from 0 to ln 2, for any two
    rows (Lin 1991).

    Args:
        call: the call; all items of its batch form one matrix together.
        weights: (batch, queries), w; values other than 0 matter only for `divergence`.
    """
    products, divergence = torch.zeros(2, call.heads, call.heads, dtype=torch.float64).unbind()
    with float32_no_grad(call.query):
        for block in row_blocks(call, weights):
            counted = block.weights * block.shares.gt(0)[:, None, :, None]
            whole = counted.transpose(0, 1).flatten(1)  # (H, B·n·Nk)
            # One block is float32, the sum of blocks float64 on the CPU: some devices lack it.
            products += (whole @ whole.T).double().cpu()
            if call.sums_to_one:
                divergence += _divergence(block.weights, block.shares).double().cpu()
            else:
                divergence.fill_(math.nan)
    products = (products + products.T) / 2  # the two halves may differ by rounding
    return Pairs(products.float(), (divergence + divergence.T).clamp_(min=0.0).float())


def _divergence(a: Tensor, shares: Tensor) -> Tensor:
    """Σ_i w_i JS for one block, (B, H, n, Nk) and (B, n); fills (H, H) above the diagonal."""
    heads = a.shape[1]
    found = a.new_zeros(heads, heads)
    entropy, halves = _entropy(a), a / 2
    for head in range(heads - 1):
        both = _entropy(halves[:, head, None] + halves[:, head + 1 :])
        rise = both - (entropy[:, head, None] + entropy[:, head + 1 :]) / 2  # (B, others, n)
        found[head, head + 1 :] = torch.einsum("bgi,bi->g", rise, shares)
    return found


def _entropy(a: Tensor) -> Tensor:
    """−Σ_j A_ij ln A_ij with 0·ln 0 = 0, (…, n)."""
    # Several times as fast as `torch.special.entr`, which works on one number at a time.
    terms: Tensor = torch.linalg.vecdot(a, a.clamp_min(_TINY).log_())
    return -terms


BLOCK = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Weights in a block: 4 MiB of float32 on a CPU, 128 MiB on CUDA."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of some items of the batch.

    Attributes:
        call: the call of these items.
        queries: the rows' numbers, (n,).
        weights: A, (items, H, n, Nk).
        shares: the weight of each row, (items, n), float32.
    """

    call: CallTensors
    queries: Tensor
    weights: Tensor
    shares: Tensor


def row_blocks(call: CallTensors, shares: Tensor) -> Iterator[RowBlock]:
    """A, block by block: several whole items if they are small (windows), else some rows of one.

    Args:
        call: the call.
        shares: (batch, queries), the weight of each row; rows that are 0 in all items are skipped.
    """
    batch, heads, _, keys = call.shape
    size = BLOCK.get(call.query.device.type, 1 << 22)
    counted = shares.any(0).nonzero()[:, 0]
    together = max(1, size // (heads * keys * max(1, len(counted))))
    for first in range(0, batch, together):
        items = slice(first, min(first + together, batch))
        part = call if items == slice(0, batch) else call.batch(items)
        step = max(1, size // ((items.stop - first) * heads * keys))
        for start in range(0, len(counted), step):
            queries = counted[start : start + step]
            yield RowBlock(part, queries, rows(part, queries), shares[items, queries].float())
