"""Computes statistics in O(N) memory on a CPU, at about the cost of one fused attention call.

One sweep goes over blocks of query rows. All requested statistics are computed from a block while
it is in the cache: see `tiles`. As many threads as torch has compute blocks, each with its own
buffers.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attnviz.attention.scores import LOG2E
from attnviz.attention.sweep import CallTensors, Progress, Sweep, SweepRequest
from attnviz.attention.threads import Scratch, in_order
from attnviz.attention.tiles import Tile, TileTask, block, cut

TILE = 1 << 19
"""Scores of a tile: 2 MiB of float32, the best size for two megabytes of second-level cache."""
PANEL = 1 << 22
"""Scores of all tiles of a block, kept until they are normalised: at most 16 MiB per thread."""
INLINE = 1 << 20
"""For fewer scores than this in total, starting threads costs more than it saves."""


def sweep(call: CallTensors, request: SweepRequest, progress: Progress | None = None) -> Sweep:
    """All requested statistics of a call, for tensors on the CPU.

    Memory: the keys in float32, the results, and about 36 MiB of buffers per thread, which grow
    with the keys beyond 2^18 of them; never queries × keys. While it runs, torch's number of
    threads is 1 in the whole process; afterwards it is restored.
    """
    batch, heads, queries, keys = call.shape
    numbers = torch.zeros(6, batch, heads, queries)
    vectors = 0 if request.weights is None else request.weights.shape[-2]
    received = torch.zeros(batch, heads, vectors, keys)
    for item in range(batch):
        task = _task(call, request.batch(item), item)
        sums = received.new_zeros(heads, vectors, len(task.order))
        for start, (found, gives) in _blocks(task):
            numbers[:, item, :, start : start + task.rows] = found
            sums += gives
            if progress is not None:
                progress(item * queries + start + found.shape[2], batch * queries)
        received[item, :, :, task.order] = sums
    if request.query_mask is not None:
        numbers.masked_fill_(~request.query_mask.unsqueeze(-2), 0.0)
    return request.collected(numbers.unbind(0), received)


def _task(call: CallTensors, request: SweepRequest, item: int) -> TileTask:
    """One item of the batch and its `request`; the keys are sorted and cut into tiles."""
    _, heads, queries, _ = call.shape
    keep, bias = _attended_keys(call, item)
    grid = torch.ones_like(keep) if request.grid is None else request.grid
    order = torch.cat([(keep & grid).nonzero()[:, 0], (keep & ~grid).nonzero()[:, 0]])
    inner = int((keep & grid).sum())
    groups = call.key.shape[1]
    rows, width, together = shape(heads, groups, queries, max(inner, 1), call.key.shape[3])
    key = _sorted(call.key[item], order)
    prefix = None if request.prefix is None else request.prefix[order]

    def tiles(first: int, last: int, start: int, stop: int, width: int) -> tuple[Tile, ...]:
        return tuple(
            _tile(slice(first, last), keys, key, heads // groups, prefix)
            for keys in cut(start, stop, width)
        )

    return TileTask(
        query=call.query[item].detach(),
        factor=call.scale * LOG2E,
        bias=bias,
        causal=call.causal,
        order=order,
        inner=tuple(
            tiles(first, min(first + together, heads), 0, inner, width)
            for first in (range(0, heads, together) if inner else (0,))
        ),
        outer=tiles(0, heads, inner, len(order), max(1, TILE // (rows * heads))),
        rows=rows,
        places=_places(request, order),
        weights=_weights(request, queries),
        squares=request.squares,
    )


def _tile(heads: slice, keys: slice, key: Tensor, shared: int, prefix: Tensor | None) -> Tile:
    """A tile of sorted keys (Hk, n, D) for some heads; each `shared` heads have the same keys."""
    tile_keys = key[heads.start // shared : -(-heads.stop // shared), keys]
    inside = None if prefix is None else prefix[keys].nonzero()[:, 0]
    found = inside if inside is not None and len(inside) else None
    return Tile(heads, keys, tile_keys.transpose(1, 2), found)


def shape(heads: int, groups: int, queries: int, keys: int, dim: int) -> tuple[int, int, int]:
    """Rows, keys and heads of a tile.

    A tile holds `TILE` scores. More rows mean fewer reads of the keys, which are expensive for a
    large `dim`. Then the tile takes as many keys as fit, then as many heads. `groups` is the number
    of key heads: a tile holds whole groups of query heads, or a part of one.
    """
    rows = min(queries, max(64, min(256, 4 * dim)), max(16, PANEL // keys))
    width = max(1, min(keys, TILE // rows))
    together = max(1, min(heads, TILE // (rows * width)))
    shared = heads // groups
    if together >= shared:
        return rows, width, together // shared * shared
    return rows, width, max(n for n in range(1, together + 1) if shared % n == 0)


def _attended_keys(call: CallTensors, item: int) -> tuple[Tensor, Tensor | None]:
    """Keys that take part for any query, (Nk,), and the remaining bias, (H, Nq, Nk), or None."""
    batch, heads, queries, keys = call.shape
    everything = torch.ones(keys, dtype=torch.bool)
    if call.bias is None:
        return everything, None
    bias = call.bias.detach().reshape((1,) * (4 - call.bias.ndim) + tuple(call.bias.shape))
    if bias.dtype == torch.bool and bias.shape[1:3] == (1, 1):
        return bias.expand(batch, 1, 1, keys)[item, 0, 0], None
    return everything, bias.expand(batch, heads, queries, keys)[item]


def _sorted(key: Tensor, order: Tensor) -> Tensor:
    if not torch.equal(order, torch.arange(key.shape[1])):
        key = key.index_select(1, order)
    return key.detach().to(torch.float32).contiguous()  # models use strided views


def _places(request: SweepRequest, order: Tensor) -> tuple[Tensor, Tensor] | None:
    if request.positions is None:
        return None
    of_queries, of_keys = (places.to(torch.float32) for places in request.positions)
    return of_queries.T.contiguous(), of_keys[order].T.contiguous()


def _weights(request: SweepRequest, queries: int) -> Tensor:
    if request.weights is None:
        return torch.zeros(0, queries)
    weights = request.weights.to(torch.float32)
    return weights if request.query_mask is None else weights * request.query_mask


def _blocks(task: TileTask) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """First row and result of every block, in order."""
    heads, queries, _ = task.query.shape
    scratch = Scratch()
    starts = range(0, queries if len(task.order) else 0, task.rows)
    small = heads * queries * len(task.order) < INLINE
    threads = 1 if small else min(torch.get_num_threads(), len(starts))
    results = in_order(lambda start: block(task, scratch, start), starts, threads=threads)
    yield from zip(starts, results, strict=True)
