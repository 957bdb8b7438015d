"""The arithmetic of one block of scores that stays in the cache.

A block is cut into tiles of keys. Each tile keeps the largest score and the sums of its own rows;
tiles are joined exactly afterwards. Scores are in units of ln 2: 2^(s/ln 2) = e^s.

Every tile leaves six numbers a row: largest score m, Σ2^(s−m), Σ(s−m)·2^(s−m), the part of the
second sum on prefix keys, Σd·2^(s−m), Σ4^(s−m).
"""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from attnviz.attention.scores import FLOOR, LOG2E


@dataclass(frozen=True)
class Tile:
    """Keys start … stop of a task; `prefix` are numbers inside the tile."""

    start: int
    stop: int
    prefix: Tensor | None

    @property
    def width(self) -> int:
        """Number of keys."""
        return self.stop - self.start


@dataclass(frozen=True)
class Task:
    """One item of a batch, its keys sorted: those of G, then the others; masked ones left out.

    Attributes:
        query: (H, Nq, D), any type.
        key: (Hk, n, D) float32.
        factor: scale / ln 2.
        bias: (H, Nq, Nk), a view, or None.
        causal: query i sees keys 0 … i.
        order: (n,) the keys' own numbers.
        inner, outer: tiles of keys in G, and of the others, which come after them.
        rows: query rows of a block.
        heads: heads that go through a tile of G together.
        places: (2, Nq) and (2, n) positions, or None.
        weights: (R, Nq), 0 for queries that count nowhere.
        squares: whether Σ4^(s−m) is wanted.
    """

    query: Tensor
    key: Tensor
    factor: float
    bias: Tensor | None
    causal: bool
    order: Tensor
    inner: tuple[Tile, ...]
    outer: tuple[Tile, ...]
    rows: int
    heads: int
    places: tuple[Tensor, Tensor] | None
    weights: Tensor
    squares: bool


class Scratch(threading.local):
    """Buffers of the thread that asks, made once and used by every block."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 buffer of that shape, with whatever is in it."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = torch.empty(size)
        return buffer[:size].view(shape)


def cut(start: int, stop: int, width: int, prefix: Tensor | None) -> Iterator[Tile]:
    """Tiles of nearly equal width over keys start … stop; `prefix` is boolean over all keys."""
    count = -(-(stop - start) // width)
    edges = [start + (stop - start) * i // max(count, 1) for i in range(count + 1)]
    for a, b in pairwise(edges):
        yield Tile(a, b, None if prefix is None else prefix[a:b].nonzero()[:, 0])


def block(task: Task, scratch: Scratch, start: int) -> tuple[Tensor, Tensor]:
    """The rows from `start` on: numbers (6, H, rows), and what they give each key (H, R, n)."""
    heads, queries, _ = task.query.shape
    rows = slice(start, min(queries, start + task.rows))
    used = task.weights[:, rows].any(1).nonzero()[:, 0]  # weight vectors that are not 0 here
    received = task.weights.new_zeros(heads, len(task.weights), len(task.order))
    distances = _distances(task, scratch, rows)
    # Few keys are not in G: one step for all heads together.
    everyone = slice(0, heads)
    outer = [_tile(task, scratch, tile, heads=everyone, rows=rows) for tile in task.outer]
    joined = []
    for head in range(0, heads, task.heads):
        group = slice(head, min(heads, head + task.heads))
        parts = [
            _tile(task, scratch, tile, heads=group, rows=rows, distances=far)
            for tile, far in zip(task.inner, distances, strict=True)
        ]
        parts += [(numbers[:, group], powers[group]) for numbers, powers in outer]
        numbers = torch.stack([part[0] for part in parts])  # (tiles, 6, heads, rows)
        joined.append(_join(numbers, len(task.inner)))
        if len(used):
            share = task.weights[used, rows] * _shares(numbers)[:, :, None]
            for tile, part, weight in zip((*task.inner, *task.outer), parts, share, strict=True):
                received[group, used, tile.start : tile.stop] = weight @ part[1]
    return torch.cat(joined, dim=1), received


def _distances(task: Task, scratch: Scratch, rows: slice) -> list[Tensor | None]:
    """Distances (rows, keys) for every tile of G, shared by all heads; None if not wanted."""
    if task.places is None:
        return [None] * len(task.inner)
    found: list[Tensor | None] = []
    (qx, qy), (kx, ky) = task.places[0][:, rows, None], task.places[1]
    for tile in task.inner:
        far = scratch.take(f"distance{tile.start}", len(qx), tile.width)
        across = scratch.take("scores", len(qx), tile.width)
        torch.sub(qy, ky[tile.start : tile.stop], out=far).square_()
        torch.sub(qx, kx[tile.start : tile.stop], out=across)
        found.append(far.addcmul_(across, across).sqrt_())
    return found


def _tile(
    task: Task,
    scratch: Scratch,
    tile: Tile,
    *,
    heads: slice,
    rows: slice,
    distances: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Numbers (6, heads, rows) of one tile, and 2^(s−m) (heads, rows, keys)."""
    scores = _scores(task, scratch, tile, heads, rows)
    power = scratch.take(f"power{tile.start}", *scores.shape)
    top = scores.amax(-1, keepdim=True)
    torch.exp2(scores.sub_(top), out=power)
    total = power.sum(-1)
    energy = scores.mul_(power).sum(-1)
    mass = path = squares = torch.zeros_like(total)
    if distances is not None:
        path = torch.mul(power, distances, out=scores).sum(-1)
    if tile.prefix is not None and len(tile.prefix):
        mass = power.index_select(2, tile.prefix).sum(-1)
    if task.squares:
        squares = torch.mul(power, power, out=scores).sum(-1)
    return torch.stack([top[..., 0], total, energy, mass, path, squares]), power


def _scores(task: Task, scratch: Scratch, tile: Tile, heads: slice, rows: slice) -> Tensor:
    """Scores (heads, rows, keys) of one tile, in units of ln 2."""
    query = task.query[heads, rows].to(torch.float32) * task.factor
    count, length, dim = query.shape
    shared = task.query.shape[0] // task.key.shape[0]
    key = task.key[heads.start // shared : -(-heads.stop // shared), tile.start : tile.stop]
    result = scratch.take("scores", count, length, tile.width)
    flat = result.view(len(key), -1, tile.width)
    torch.bmm(query.view(len(key), -1, dim), key.transpose(1, 2), out=flat)
    order = task.order[tile.start : tile.stop]
    if task.bias is not None:
        bias = task.bias[heads, rows].index_select(2, order)
        if bias.dtype == torch.bool:
            result.masked_fill_(~bias, FLOOR)
        else:
            result.add_(bias.to(torch.float32), alpha=LOG2E).clamp_(min=FLOOR)
    if task.causal:
        at = torch.arange(rows.start, rows.stop)
        result.masked_fill_(order > at[:, None], FLOOR)
    return result


def _shares(numbers: Tensor) -> Tensor:
    """What turns 2^(s−m) of each tile into A, (tiles, heads, rows); 0 for rows without a key."""
    top = numbers[:, 0].amax(0)
    factor = torch.exp2(numbers[:, 0] - top)
    return factor / (factor * numbers[:, 1]).sum(0) * (top > FLOOR / 2)


def _join(numbers: Tensor, inner: int) -> Tensor:
    """Numbers of all tiles, (tiles, 6, heads, rows), as those of the rows, (6, heads, rows).

    They are lse, entropy, confidence, prefix mass, distance and Σ A²; the first `inner` tiles
    are in G.
    """
    tops, totals, energies, mass, path, squares = numbers.unbind(1)
    top = tops.amax(0)
    factor = torch.exp2(tops - top)
    total = (factor * totals).sum(0)
    energy = (factor * (energies + totals * (tops - top))).sum(0) / total
    found = [
        (top + total.log2()) / LOG2E,
        ((total.log2() - energy) / LOG2E).clamp_(min=0.0),
        1 / total,
        (factor * mass).sum(0) / total,
        _distance(tops[:inner], totals[:inner], path[:inner]) if inner else torch.zeros_like(top),
        (factor * factor * squares).sum(0) / (total * total),
    ]
    return torch.stack(found).masked_fill_(top <= FLOOR / 2, 0.0)


def _distance(tops: Tensor, totals: Tensor, path: Tensor) -> Tensor:
    """Σd·2^s / Σ2^s over the tiles of G alone, however little G gets of A."""
    top = tops.amax(0)
    factor = torch.exp2(tops - top)
    length = (factor * path).sum(0) / (factor * totals).sum(0)
    return length.masked_fill_(top <= FLOOR / 2, 0.0)
