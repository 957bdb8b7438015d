"""Warps, operators without an obvious rule, and what makes and changes tokens; and whole chains."""

from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from panel.chains import DROPS, MIXES, MOVES, PATCH, Maker, Step, order, positive

# Warps


def grid_sample(rng: Random) -> Step:
    across, down = (rng.choice((-1, 1)) * rng.uniform(0.5, 1.1) for _ in range(2))
    shear, shift = rng.choice((0, 0.3)), rng.uniform(-0.3, 0.3)
    theta = torch.tensor([[across, shear, shift], [-shear, down, 0.0]])
    settings: dict[str, Any] = {
        "mode": rng.choice(("bilinear", "nearest")),
        "padding_mode": rng.choice(("zeros", "border", "reflection")),
        "align_corners": rng.random() < 0.5,
    }

    def run(x: Tensor) -> Tensor:
        where = F.affine_grid(theta[None], list(x.shape), align_corners=settings["align_corners"])
        return F.grid_sample(x, where, **settings)

    return Step(f"grid_sample({[round(v, 1) for v in theta.flatten().tolist()]}, {settings})", run)


def interpolate(rng: Random) -> Step:
    mode = rng.choice(("nearest", "nearest-exact", "bilinear", "bicubic", "area"))
    settings: dict[str, Any] = {"scale_factor": rng.choice((0.5, 0.75, 1.5, 2)), "mode": mode}
    if mode in ("bilinear", "bicubic"):
        settings |= rng.choice(
            ({"align_corners": True}, {"align_corners": False}, {"antialias": True})
        )
    return Step(f"interpolate({settings})", lambda x: F.interpolate(x, **settings))


# Others


def running_sum(rng: Random) -> Step:
    dim = rng.choice((2, 3))
    return Step(f"cumsum({dim})", lambda x: x.cumsum(dim))


def sort(rng: Random) -> Step:
    dim = rng.choice((2, 3))
    return Step(f"sort({dim})", lambda x: x.sort(dim).values)


def fft(_: Random) -> Step:
    return Step("fft2.real", lambda x: torch.fft.fft2(x).real)


def median(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        around = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
        found: Tensor = around.flatten(4).median(-1).values
        return found

    return Step("median(3x3)", run)


def solve(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        n = x.shape[2]
        found: Tensor = torch.linalg.solve(torch.eye(n) * n + torch.ones(n, n), x)
        return found

    return Step("linalg.solve(rows)", run)


def shifted_by_solving(_: Random) -> Step:
    return Step(
        "linalg.solve(reversal)", lambda x: torch.linalg.solve(torch.eye(x.shape[2]).flip(0), x)
    )


OTHERS: list[Maker] = [running_sum, sort, fft, median, solve, shifted_by_solving]
WARPS: list[Maker] = [grid_sample, interpolate, interpolate]

# Tokens


def by_convolution(rng: Random) -> Step:
    seed = rng.randrange(999)
    return Step(
        "patches(conv)",
        lambda x: F.conv2d(x, positive(Random(seed), 5, x.shape[1], PATCH, PATCH), stride=PATCH)
        .flatten(2).transpose(1, 2),
    )  # fmt: skip


def by_reshape(rng: Random) -> Step:
    seed = rng.randrange(999)

    def run(x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        x = x[..., : rows * PATCH, : columns * PATCH]
        x = x.reshape(1, -1, rows, PATCH, columns, PATCH).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(1, rows * columns, -1)
        return F.linear(x, positive(Random(seed), 5, x.shape[-1]))

    return Step("patches(reshape)", run)


def by_unfold(rng: Random) -> Step:
    seed = rng.randrange(999)

    def run(x: Tensor) -> Tensor:
        x = F.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
        return F.linear(x, positive(Random(seed), 5, x.shape[-1]))

    return Step("patches(F.unfold)", run)


def by_view(rng: Random) -> Step:
    seed = rng.randrange(999)

    def run(x: Tensor) -> Tensor:
        x = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
        x = x.flatten(3).flatten(1, 2)
        return F.linear(x, positive(Random(seed), 5, x.shape[-1]))

    return Step("patches(Tensor.unfold)", run)


def by_pool(_: Random) -> Step:
    return Step("patches(avg_pool)", lambda x: F.avg_pool2d(x, PATCH).flatten(2).transpose(1, 2))


def shuffled(rng: Random) -> Step:
    seed = rng.randrange(99)
    return Step(f"tokens[shuffled {seed}]", lambda x: x[:, order(Random(seed), x.shape[1])])


def dropped(rng: Random) -> Step:
    seed = rng.randrange(99)
    return Step(
        f"tokens[some {seed}]",
        lambda x: x[:, order(Random(seed), x.shape[1])[: x.shape[1] // 2 + 1]],
    )


def sorted_by_score(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        rank = x.detach().sum(-1).argsort(1)
        return x.gather(1, rank[..., None].expand_as(x))

    return Step("gather(argsort)", run)


def topk(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        best = x.detach().sum(-1).topk(x.shape[1] // 2 + 1).indices
        return x.gather(1, best[..., None].expand(-1, -1, x.shape[2]))

    return Step("gather(topk)", run)


def with_class(_: Random) -> Step:
    return Step("cat(class token)", lambda x: torch.cat([torch.ones_like(x[:, :1]), x], 1))


def mixed_tokens(rng: Random) -> Step:
    seed = rng.randrange(999)

    def run(x: Tensor) -> Tensor:
        return torch.einsum("mn,bnc->bmc", positive(Random(seed), x.shape[1], x.shape[1]), x)

    return Step("einsum(token mixing)", run)


def reversed_by_einsum(_: Random) -> Step:
    return Step(
        "einsum(reversal)",
        lambda x: torch.einsum("mn,bnc->bmc", torch.eye(x.shape[1]).flip(0), x),
    )


def normed(_: Random) -> Step:
    return Step("layer_norm", lambda x: F.layer_norm(x, (x.shape[-1],)))


def written_tokens(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        buffer = x.new_zeros(x.shape)
        for i in range(x.shape[1]):
            buffer[:, x.shape[1] - 1 - i] = x[:, i]
        return buffer

    return Step("write(token by token, reversed)", run)


def attended(_: Random) -> Step:
    return Step(
        "x + attention(x)/4", lambda x: x + F.scaled_dot_product_attention(x, x, x, scale=0.1) / 4
    )


def attended_by_channels(_: Random) -> Step:
    def run(x: Tensor) -> Tensor:
        between = (x.transpose(1, 2) @ x / 100).softmax(-1)  # (1, channels, channels)
        return x + (between @ x.transpose(1, 2)).transpose(1, 2)

    return Step("x + channel attention(x)", run)


def gated(_: Random) -> Step:
    return Step("x · σ(mean)", lambda x: x * x.mean(1, keepdim=True).sigmoid())


def along_tokens(rng: Random) -> Step:
    seed = rng.randrange(999)
    return Step(
        "conv1d(tokens, 1)",
        lambda x: F.conv1d(x.transpose(1, 2), positive(Random(seed), 6, x.shape[2], 1)).mT,
    )


TOKENS: list[Maker] = [by_convolution, by_reshape, by_unfold, by_view, by_pool]
OF_TOKENS: list[Maker] = [
    shuffled, dropped, sorted_by_score, topk, with_class, mixed_tokens, reversed_by_einsum, normed,
    written_tokens, attended, attended_by_channels, gated, along_tokens,
]  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Steps one after the other."""

    steps: tuple[Step, ...]

    def __call__(self, picture: Tensor) -> Tensor:
        for step in self.steps:
            picture = step.run(picture)
        return picture

    def __str__(self) -> str:
        return " | ".join(step.name for step in self.steps)


def draw(seed: int) -> Chain:
    """The chain of a seed: one to four steps on the map, tokens, none to two steps on these."""
    rng = Random(seed)
    kinds = [MOVES, MIXES, DROPS, WARPS, OTHERS]
    chosen = rng.choices(kinds, weights=[4, 3, 2, 2, 1], k=rng.randrange(1, 5))
    makers = [rng.choice(kind) for kind in chosen]
    makers += [rng.choice(TOKENS), *rng.choices(OF_TOKENS, k=rng.choice((0, 0, 1, 2)))]
    return Chain(tuple(maker(rng) for maker in makers))
