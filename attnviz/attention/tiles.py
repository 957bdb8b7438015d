"""Computes the statistics of one block of scores that stays in the cache.

A block is cut into tiles of keys. Each tile has the largest score and the sums of its own rows;
afterwards the tiles are joined exactly. Scores are in units of ln 2: 2^(s/ln 2) = e^s.

A tile gives six numbers per row: the largest score m, Σ2^(s−m), Σ(s−m)·2^(s−m), Σ2^(s−m) over
prefix keys, Σd·2^(s−m), and Σ4^(s−m).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attnviz.attention.scores import FLOOR, LOG2E
from attnviz.attention.threads import Scratch


@dataclass(frozen=True)
class Tile:
    """Some keys for some heads.

    Attributes:
        heads: query heads.
        keys: start … stop among the task's sorted keys.
        key: (key heads, D, keys) float32, a view.
        prefix: numbers of prefix tokens, counted inside the tile; None if there are none.
    """

    heads: slice
    keys: slice
    key: Tensor
    prefix: Tensor | None

    @property
    def width(self) -> int:
        """Number of keys."""
        return self.key.shape[2]


@dataclass(frozen=True)
class TileTask:
    """One item of a batch. Its keys are sorted: first G, then the others; masked keys are left out.

    Attributes:
        query: (H, Nq, D), any type.
        factor: scale / ln 2.
        bias: (H, Nq, Nk), a view, or None.
        causal: query i sees keys 0 … i.
        order: (n,), the original numbers of the sorted keys.
        inner: tiles of G, one row of tiles for each group of heads.
        outer: tiles of the other keys, for all heads together.
        rows: query rows of a block.
        places: (2, Nq) and (2, n) positions, or None.
        weights: (R, Nq), 0 for queries that do not count.
        squares: whether to compute Σ4^(s−m).
    """

    query: Tensor
    factor: float
    bias: Tensor | None
    causal: bool
    order: Tensor
    inner: tuple[tuple[Tile, ...], ...]
    outer: tuple[Tile, ...]
    rows: int
    places: tuple[Tensor, Tensor] | None
    weights: Tensor
    squares: bool

    @property
    def all_valid(self) -> bool:
        """Whether it is certain that every query has a key."""
        return self.bias is None and not self.causal


def cut(start: int, stop: int, width: int) -> Iterator[slice]:
    """Slices of nearly equal width over start … stop."""
    count = -(-(stop - start) // width)
    edges = [start + (stop - start) * i // max(count, 1) for i in range(count + 1)]
    for a, b in pairwise(edges):
        yield slice(a, b)


def block(task: TileTask, scratch: Scratch, start: int) -> tuple[Tensor, Tensor]:
    """Rows from `start` on: numbers (6, H, rows), and what each key receives (H, R, n)."""
    heads, queries, _ = task.query.shape
    rows = slice(start, min(queries, start + task.rows))
    query = task.query[:, rows].to(torch.float32) * task.factor
    weights = task.weights[:, rows]
    gives = bool(weights.any())
    received = task.weights.new_zeros(heads, len(weights), len(task.order))
    distances = _distances(task, scratch, rows)
    outer = [_tile(task, scratch, tile, query=query, rows=rows) for tile in task.outer]
    found = []
    for tiles in task.inner:
        parts = [
            _tile(task, scratch, tile, query=query, rows=rows, distances=far)
            for tile, far in zip(tiles, distances, strict=True)
        ]
        group = tiles[0].heads if tiles else slice(0, heads)
        parts += [(numbers[:, group], powers[group]) for numbers, powers in outer]
        numbers = torch.stack([part[0] for part in parts])  # (tiles, 6, heads, rows)
        found.append(numbers)
        if gives:
            shares = weights * _shares(numbers, task)[:, :, None]  # (tiles, heads, R, rows)
            for tile, part, share in zip((*tiles, *task.outer), parts, shares, strict=True):
                received[group, :, tile.keys] = torch.bmm(share, part[1])
    numbers = found[0] if len(found) == 1 else torch.cat(found, dim=2)
    return _join(numbers, task), received


def _distances(task: TileTask, scratch: Scratch, rows: slice) -> list[Tensor | None]:
    """Distances (rows, keys) for every tile of G, shared by all heads; None if not requested."""
    if task.places is None:
        return [None] * len(task.inner[0])
    found: list[Tensor | None] = []
    (qx, qy), (kx, ky) = task.places[0][:, rows, None], task.places[1]
    for number, tile in enumerate(task.inner[0]):
        far = scratch.take(f"distance{number}", len(qx), tile.width)
        across = scratch.take("scores", len(qx), tile.width)
        torch.sub(qy, ky[tile.keys], out=far).square_()
        torch.sub(qx, kx[tile.keys], out=across)
        found.append(far.addcmul_(across, across).sqrt_())
    return found


def _tile(
    task: TileTask,
    scratch: Scratch,
    tile: Tile,
    *,
    query: Tensor,
    rows: slice,
    distances: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Numbers (6, heads, rows) of one tile, and 2^(s−m) (heads, rows, keys).

    This uses few operations, also few small ones: at these sizes, starting an operation costs as
    much as a thousand scores.
    """
    scores = _scores(task, scratch, tile, query[tile.heads], rows)
    power = scratch.take(f"power{tile.keys.start}", *scores.shape)
    top = scores.amax(-1, keepdim=True)
    torch.exp2(scores.sub_(top), out=power)
    total = power.sum(-1)
    energy = scores.mul_(power).sum(-1)
    mass = path = squares = scratch.take("nothing", *total.shape).zero_()
    if distances is not None:
        path = torch.mul(power, distances, out=scores).sum(-1)
    if tile.prefix is not None:
        mass = power.index_select(2, tile.prefix).sum(-1)
    if task.squares:
        squares = torch.mul(power, power, out=scores).sum(-1)
    return torch.stack([top[..., 0], total, energy, mass, path, squares]), power


def _scores(task: TileTask, scratch: Scratch, tile: Tile, query: Tensor, rows: slice) -> Tensor:
    """Scores (heads, rows, keys) of one tile, in units of ln 2."""
    count, length, dim = query.shape
    result = scratch.take("scores", count, length, tile.width)
    groups = len(tile.key)  # heads of a group share their keys, so one product has all their rows
    torch.bmm(query.reshape(groups, -1, dim), tile.key, out=result.view(groups, -1, tile.width))
    if task.bias is None and not task.causal:
        return result
    order = task.order[tile.keys]
    if task.bias is not None:
        bias = task.bias[tile.heads, rows].index_select(2, order)
        if bias.dtype == torch.bool:
            result.masked_fill_(~bias, FLOOR)
        else:
            result.add_(bias.to(torch.float32), alpha=LOG2E).clamp_(min=0.4 * FLOOR)
            result.masked_fill_(bias.isneginf(), FLOOR)
    if task.causal:
        at = torch.arange(rows.start, rows.stop)
        result.masked_fill_(order > at[:, None], FLOOR)
    return result


def _shares(numbers: Tensor, task: TileTask) -> Tensor:
    """Factors from each tile's 2^(s−m) to A, (tiles, heads, rows); 0 for rows without a key."""
    tops, totals = numbers[:, 0], numbers[:, 1]
    if len(numbers) == 1 and task.all_valid:
        return totals.reciprocal()
    top = tops.amax(0)
    factor = torch.exp2(tops - top)
    return factor / (factor * totals).sum(0) * (top > FLOOR / 2)


def _join(numbers: Tensor, task: TileTask) -> Tensor:
    """Join the numbers of all tiles, (tiles, 6, heads, rows), into statistics (6, heads, rows).

    These are lse, entropy, confidence, prefix mass, distance and Σ A².
    """
    tops, totals, energies, mass, path, squares = numbers.unbind(1)
    inner = len(task.inner[0])
    top = tops.amax(0)
    factor = torch.exp2(tops - top)
    total = (factor * totals).sum(0)
    energy = (factor * (energies + totals * (tops - top))).sum(0) / total
    found = [
        (top + total.log2()) / LOG2E,
        ((total.log2() - energy) / LOG2E).clamp_(min=0.0),
        1 / total,
        (factor * mass).sum(0) / total,
        _distance(tops[:inner], totals[:inner], path[:inner]),
        (factor * factor * squares).sum(0) / (total * total),
    ]
    return torch.stack(found).masked_fill_(top <= FLOOR / 2, 0.0)


def _distance(tops: Tensor, totals: Tensor, path: Tensor) -> Tensor:
    """Σd·2^s / Σ2^s over the tiles of G alone; exact even if G receives very little of A."""
    if not len(tops):
        return torch.zeros(tops.shape[1:])
    top = tops.amax(0)
    factor = torch.exp2(tops - top)
    length = (factor * path).sum(0) / (factor * totals).sum(0)
    return length.masked_fill_(top <= FLOOR / 2, 0.0)
