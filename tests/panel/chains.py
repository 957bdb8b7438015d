"""Random chains of tensor operators between a picture and tokens, as a seed draws them.

A chain is steps on a map (1, c, h, w), one that makes tokens (1, n, c) of it, and steps on these.
Weights that mix are positive and symmetric, so that what a token sees has a middle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, HEIGHT, PATCH = 24, 16, 4
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """An operator with its settings, and what it is called when a chain is printed."""

    name: str
    run: Function


Maker = Callable[[Random], Step]


def positive(rng: Random, *shape: int) -> Tensor:
    """Weights between ½ and 1½."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.rand(shape, generator=generator) + 0.5


def order(rng: Random, count: int) -> Tensor:
    return torch.tensor(rng.sample(range(count), count))


def bump(size: int) -> Tensor:
    """A kernel that weighs its middle twice, (size, size)."""
    line = torch.ones(size)
    line[size // 2] = 2
    return torch.outer(line, line) / line.sum() ** 2


def convolve(x: Tensor, size: int, weights: Tensor) -> Tensor:
    """Channels mixed by (out, in) and space by a bump, zeros around."""
    kernel = weights[..., None, None] * bump(size) / weights.shape[1]
    return F.conv2d(x, kernel, padding=size // 2)


# Moves


def flip(rng: Random) -> Step:
    dim = rng.choice((2, 3))
    return Step(f"flip({dim})", lambda x: x.flip(dim))


def roll(rng: Random) -> Step:
    shift, dim = rng.randrange(1, 9), rng.choice((2, 3))
    return Step(f"roll({shift}, {dim})", lambda x: x.roll(shift, dim))


def transpose(_: Random) -> Step:
    return Step("transpose", lambda x: x.transpose(2, 3))


def shuffled_columns(rng: Random) -> Step:
    seed = rng.randrange(99)
    return Step(
        f"index_select(shuffled {seed})",
        lambda x: x.index_select(3, order(Random(seed), x.shape[3] // 4).repeat_interleave(4) * 4
                                 + torch.arange(x.shape[3] // 4 * 4) % 4),
    )  # fmt: skip


def unshuffle(_: Random) -> Step:
    return Step(
        "pixel_unshuffle(2)",
        lambda x: F.pixel_unshuffle(x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2], 2),
    )


def gathered(_: Random) -> Step:
    return Step(
        "gather(reversed)",
        lambda x: x.gather(3, torch.arange(x.shape[3] - 1, -1, -1).expand_as(x)),
    )


def reversed_by_product(_: Random) -> Step:
    return Step("matmul(reversal)", lambda x: x @ torch.eye(x.shape[3]).flip(0))


def strided_view(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        x = x.contiguous()
        b, c, h, w = x.shape
        return x.as_strided((b, c, h, w - 2), x.stride(), 2)

    return Step("as_strided(from 2)", run)


def written(rng: Random) -> Step:
    by = rng.randrange(1, 5)

    def run(x: Tensor) -> Tensor:
        buffer = torch.zeros_like(x)
        buffer[..., by:] = x[..., :-by]
        return buffer

    return Step(f"write(slice {by}:)", run)


def index_put(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        columns = torch.arange(x.shape[3] - 1, -1, -1)
        buffer = torch.zeros_like(x)
        buffer[:, :, :, columns] = x
        return buffer

    return Step("index_put_(reversed)", run)


def scatter(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2] - 1, -1, -1)[:, None].expand_as(x)
        return torch.zeros_like(x).scatter(2, rows, x)

    return Step("scatter(reversed rows)", run)


def masked_scatter(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        mask = torch.zeros_like(x, dtype=torch.bool)
        mask[..., x.shape[3] // 2 :] = True
        return torch.zeros_like(x).masked_scatter(mask, x.flip(3))

    return Step("masked_scatter(right half)", run)


# Mixes


def conv(rng: Random) -> Step:
    size, out = rng.choice((3, 5)), rng.choice((3, 4))
    seed = rng.randrange(999)
    return Step(f"conv{size}", lambda x: convolve(x, size, positive(Random(seed), out, x.shape[1])))


def average(_: Random) -> Step:
    return Step("avg_pool(3, 1, 1)", lambda x: F.avg_pool2d(x, 3, 1, 1))


def strided_pool(rng: Random) -> Step:
    pool = rng.choice((F.avg_pool2d, F.max_pool2d))
    return Step(f"{pool.__name__}(2)", lambda x: pool(x, 2))


def channels(rng: Random) -> Step:
    seed = rng.randrange(999)
    return Step(
        "linear(channels)",
        lambda x: F.linear(x.movedim(1, -1), positive(Random(seed), 4, x.shape[1])).movedim(-1, 1),
    )


def add_shifted(rng: Random) -> Step:
    by = rng.choice((1, 2))
    return Step(
        f"x + shifted(±{by})",
        lambda x: x + 0.5 * F.pad(x, (by, -by, 0, 0)) + 0.5 * F.pad(x, (-by, by, 0, 0)),
    )


def cat_shifted(rng: Random) -> Step:
    by = rng.choice((1, 2))
    return Step(
        f"cat(x, shifted ±{by})",
        lambda x: torch.cat([x, F.pad(x, (by, -by, 0, 0)), F.pad(x, (-by, by, 0, 0))], 1),
    )


def cat_constant(_: Random) -> Step:
    return Step(
        "cat(x, coordinates)",
        lambda x: torch.cat([x, torch.linspace(0, 1, x.shape[3]).expand_as(x[:, :1])], 1),
    )


def norm(_: Random) -> Step:
    return Step(
        "layer_norm(channels)",
        # an epsilon that keeps pixels whose channels are nearly equal from counting most
        lambda x: F.layer_norm(x.movedim(1, -1), (x.shape[1],), eps=1.0).movedim(-1, 1),
    )


def fold_back(_: Random) -> Step:
    return Step(
        "fold(unfold(3))",
        lambda x: F.fold(F.unfold(x, 3, padding=1), tuple(x.shape[2:]), 3, padding=1),
    )


# Drops, pads


def cut(rng: Random) -> Step:
    dim, by = rng.choice((2, 3)), rng.randrange(1, 5)
    if rng.random() < 0.5:
        return Step(f"slice({dim}, {by}:)", lambda x: x.narrow(dim, by, x.shape[dim] - by))
    return Step(f"slice({dim}, :-{by})", lambda x: x.narrow(dim, 0, x.shape[dim] - by))


def subset(rng: Random) -> Step:
    dim = rng.choice((2, 3))
    return Step(
        f"index_select({dim}, every other four)",
        lambda x: x.index_select(
            dim, torch.arange(x.shape[dim])[torch.arange(x.shape[dim]) % 8 < 4]
        ),
    )


def pad(rng: Random) -> Step:
    mode = rng.choice(("constant", "reflect", "replicate", "circular"))
    sides = tuple(rng.choice((0, 0, 1, 2, 3, 4)) for _ in range(4))
    return Step(f"pad({mode}, {sides})", lambda x: F.pad(x, sides, mode))


MOVES: list[Maker] = [
    flip, roll, transpose, shuffled_columns, unshuffle, gathered, reversed_by_product,
    strided_view, written, index_put, scatter, masked_scatter,
]  # fmt: skip
MIXES: list[Maker] = [
    conv, average, strided_pool, channels, add_shifted, cat_shifted, cat_constant, norm, fold_back,
]  # fmt: skip
DROPS: list[Maker] = [cut, subset, pad, pad]
