"""A block of rows of A after the other: for what needs the weights of all heads side by side."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from attnviz.attention.call_tensors import CallTensors
from attnviz.attention.scores import rows

BLOCK = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Weights in a block: 4 MiB of float32 on a CPU, 128 MiB on CUDA."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of some items of the batch.

    Attributes:
        call: of these items.
        queries: the rows' numbers, (n,).
        weights: A, (items, H, n, Nk).
        shares: what each row counts, (items, n), float32.
    """

    call: CallTensors
    queries: Tensor
    weights: Tensor
    shares: Tensor


def row_blocks(call: CallTensors, shares: Tensor) -> Iterator[RowBlock]:
    """A, block by block: whole items where they are small, as windows are, else some rows of one.

    Args:
        call: the call.
        shares: (batch, queries); rows that are 0 in all items are left out.
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
