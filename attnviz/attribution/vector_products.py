"""Products of vectors with the head fusion of a call, in O(N) memory.

A method that merges heads or layers needs r·M or M·u. M (Nq × Nk) is a fusion of the heads' A, of
their gradients, or of both: `MergedHeads`. M is computed from q and k (and v, dO), a block of rows
at a time; only one block exists at once. On a CPU, blocks stay in the cache and run in several
threads. Rows where r is 0 are skipped.

If M is a mean over heads, not even a block of it is computed: Σ_i r_i·mean_h A_hij is one product
of the r_i/(H·Σ_j 2^s_hij) with the 2^s_hij of all heads.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from attnviz.attention.scores import float32_no_grad
from attnviz.attention.threads import in_order
from attnviz.attribution.head_fusion import MergedHeads, RowPart, chunks

HELD = 1 << 22
"""A matrix of at most this many entries, 16 MiB, is kept if it is needed more than once."""
INLINE = 1 << 20
"""For fewer scores than this in total, starting threads costs more than it saves."""

Job = tuple[RowPart, Tensor]
Result = TypeVar("Result")


def vec_mat(fused: MergedHeads, rows: Tensor) -> Tensor:
    """r·M, (B, R, Nk), for row vectors r, (B, R, Nq)."""
    return _products(fused, rows, normalised=False)[0]


def vec_rollout(fused: MergedHeads, rows: Tensor) -> Tensor:
    """r·rownorm(M + I), (B, R, N), for row vectors r, (B, R, N); queries and keys are the same.

    A row of M that is 0 becomes a row of I.
    """
    product, shares = _products(fused, rows, normalised=True)
    return product.add_(shares)


def vec_residual(fused: MergedHeads, rows: Tensor) -> tuple[Tensor, Tensor]:
    """r·rownorm([M I]) where queries and keys may be different tokens.

    Returns:
        What the keys get, (B, R, Nk), and what the queries keep, (B, R, Nq).
    """
    return _products(fused, rows, normalised=True)


def mat_vec(fused: MergedHeads, columns: Tensor) -> Tensor:
    """M·u, (B, Nq), for vectors u, (B, Nk)."""
    batch, _, queries, _ = fused.call.shape
    result = columns.new_zeros(batch, queries, dtype=torch.float32)

    def block(job: Job) -> Tensor:
        part, rows = job
        vectors = columns[part.items].float()
        found = torch.zeros(1, device=columns.device)
        for x, factor in part.terms(rows, fused.summed):
            # One by one: a product with a vector is faster than one with a matrix of one column.
            products = [torch.mv(a.flatten(0, 1), u) for a, u in zip(x, vectors, strict=True)]
            found = found + (torch.stack(products).view_as(factor) * factor).sum(1)
        return found

    for (part, rows), found in _blocks(fused, block):
        result[part.items, rows] = found
    return result


def discarding(fused: MergedHeads, share: float, spared: Tensor | None = None) -> MergedHeads:
    """M without its lowest entries: those below the ⌊share·Nq·Nk⌋-th smallest, counted from 0.

    Entries equal to this one stay. Every item of the batch has its own threshold. The threshold is
    exact: non-negative float32 numbers have the same order as their bits, so two counts find it,
    one of the upper and one of the lower sixteen bits. Both counts use identically computed blocks.

    Args:
        fused: a matrix without negative entries.
        share: the share of all entries to drop, 0 … 1.
        spared: (B,) boolean; True keeps entry [0, 0] in any case.
    """
    batch, _, queries, keys = fused.call.shape
    if batch * queries * keys <= HELD:
        fused = replace(fused, held=whole(fused))
    rank = torch.full((batch,), min(int(share * queries * keys), queries * keys - 1))
    upper, rank = _bin(_counts(fused, 16), rank)
    lower, _ = _bin(_counts(fused, 0, upper), rank)
    least = ((upper << 16) | lower).to(torch.int32).view(torch.float32)
    return replace(fused, least=least.to(fused.call.query.device), spared=spared)


def whole(fused: MergedHeads) -> Tensor:
    """M itself, (B, Nq, Nk); for a small M, or if every row is needed."""
    batch, _, queries, keys = fused.call.shape
    result = torch.empty(batch, queries, keys, device=fused.call.query.device)
    for (part, rows), matrix in _blocks(fused, lambda job: job[0].matrix(job[1]).clone()):
        result[part.items, rows] = matrix
    return result


def _counts(fused: MergedHeads, shift: int, upper: Tensor | None = None) -> Tensor:
    """A histogram of sixteen bits of M's entries, (B, 2^16), starting at bit `shift`.

    With `upper`, only entries with these upper sixteen bits count.
    """
    counts = torch.zeros(fused.call.shape[0], 1 << 16, dtype=torch.long)

    def block(job: Job) -> Tensor:
        part, rows = job
        every = part.matrix(rows).view(torch.int32).bitwise_and_(0x7FFFFFFF)  # −0 is 0
        found = []
        for bits, prefix in zip(every, counts[part.items] if upper is None else upper[part.items],
                                strict=True):  # fmt: skip
            flat = bits.flatten()
            if upper is not None:
                flat = flat[(flat >> 16) == int(prefix)]
            found.append(torch.bincount((flat >> shift) & 0xFFFF, minlength=1 << 16).cpu())
        return torch.stack(found)

    for (part, _), found in _blocks(fused, block, alike=True):
        counts[part.items] += found
    return counts


def _bin(counts: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """For each row, the bin that holds the entry of the given rank, and its rank in the bin."""
    upto = counts.cumsum(1)
    number = (upto > rank[:, None]).int().argmax(1)
    before = (upto - counts).gather(1, number[:, None])[:, 0]
    return number, rank - before


def _products(fused: MergedHeads, vectors: Tensor, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """Σ_i r_i/z_i·M_i and the r_i/z_i themselves; z is 1, or with `normalised` 1 + Σ_j M_ij."""
    batch, _, _, keys = fused.call.shape
    vectors = vectors.to(torch.float32)
    result = vectors.new_zeros(batch, vectors.shape[1], keys)
    shares = torch.zeros_like(vectors)
    summed = fused.summed and (fused.full or not normalised)

    def block(job: Job) -> tuple[Tensor, Tensor]:
        part, rows = job
        share, product = vectors[part.items][:, :, rows], None
        if normalised and summed:  # a mean of rows that sum to 1
            share = share / (1 + part.counted(rows))[:, None]
        for x, factor in part.terms(rows, summed):
            if normalised and not summed:
                share = share / (1 + x.sum(-1))
            weights = (share[:, None] * factor[:, :, None]).transpose(1, 2).flatten(2)
            found = torch.bmm(weights, x.flatten(1, 2))  # (b, R, h·n)·(b, h·n, Nk)
            product = found if product is None else product.add_(found)
        assert product is not None  # there is at least one head
        return product, share

    for (part, rows), (product, share) in _blocks(fused, block, vectors.any(1)):
        result[part.items] += product
        shares[part.items, :, rows] = share
    return result, shares


def _blocks(
    fused: MergedHeads,
    work: Callable[[Job], Result],
    active: Tensor | None = None,
    *,
    alike: bool = False,
) -> Iterator[tuple[Job, Result]]:
    """Every block of the `active` rows, (B, Nq), and the result of `work` for it, in order.

    With `alike`, or if M drops small entries, blocks always have the same rows, so their numbers
    are the same to the last bit.
    """
    batch, heads, queries, keys = fused.call.shape
    device = fused.call.query.device
    alike = alike or fused.least is not None
    active = torch.ones(batch, queries, dtype=torch.bool) if active is None else active
    most = queries if alike else max(1, int(active.sum(1).max()))
    with float32_no_grad(fused.call.query):
        jobs = [
            (part, rows)
            for part in fused.parts(min(most, fused.rows))
            for rows in _rows(active[part.items].any(0).to(device), fused.rows, alike=alike)
        ]
        small = heads * keys * sum(len(rows) for _, rows in jobs) < INLINE
        threads = 1 if small or not fused.on_cpu else min(torch.get_num_threads(), len(jobs))
        yield from zip(jobs, in_order(work, jobs, threads=threads), strict=True)


def _rows(active: Tensor, size: int, *, alike: bool) -> Iterator[Tensor]:
    """Numbers of active rows, a block at a time; with `alike`, whole blocks with an active row."""
    if not alike:
        yield from chunks(active.nonzero()[:, 0], size)
        return
    for rows in chunks(torch.arange(len(active), device=active.device), size):
        if bool(active[rows].any()):
            yield rows
