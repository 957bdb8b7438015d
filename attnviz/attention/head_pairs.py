"""Compares the attention matrices of all pairs of heads of a call.

A is computed for all heads, a block of rows at a time. Memory is one block; time is
queries × keys × pairs of heads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from attnviz.attention.call_tensors import CallTensors
from attnviz.attention.scores import float32_no_grad, rows

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
            divergence += _divergence(block.weights, block.shares).double().cpu()
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
