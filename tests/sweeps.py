"""Attention calls for the tests of sweeps, what they are asked, and when results are the same."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import attnviz
from attnviz.attention.sweep import Sweep, SweepRequest

NAMES = ["lse", "entropy", "confidence", "prefix_mass", "distance", "sum_of_squares", "received"]


def positions(n: int, first: int = 1) -> Tensor:
    """Centres of tokens, in patches: the unit that a tolerance of 2e-5 is of."""
    side = max(1, math.isqrt(n))
    index = torch.arange(n) - first
    return torch.stack([index % side, index // side], dim=-1) + 0.5


def everything(queries: int, keys: int, first: int = 1) -> SweepRequest:
    """All that a sweep can be asked; the first keys are prefix tokens."""
    weights = torch.full((2, queries), 1 / queries)
    weights[1] = torch.nn.functional.one_hot(torch.tensor(queries // 2), queries)
    prefix = torch.arange(keys) < min(first, keys - 1)
    places = positions(queries, first), positions(keys, first)
    return SweepRequest(
        prefix=prefix, grid=~prefix, positions=places, weights=weights, squares=True
    )


def random_call(
    n: int,
    keys: int | None = None,
    *,
    dim: int = 8,
    heads: int = 2,
    groups: int | None = None,
    batch: int = 1,
    **more: Any,
) -> attnviz.AttentionCall:
    keys = keys or n
    torch.manual_seed(n * 7 + keys * 3 + dim)
    q = torch.randn(batch, heads, n, dim)
    k = torch.randn(batch, groups or heads, keys, dim)
    return attnviz.AttentionCall(q, k, k, dim**-0.5, **more)


def peaked(call: attnviz.AttentionCall, height: float = 60.0) -> attnviz.AttentionCall:
    """Scores that reach ± `height`."""
    groups = call.heads // call.key.shape[1]
    top = (call.query @ call.key.repeat_interleave(groups, 1).mT).abs().max() * call.scale
    return replace(call, query=call.query * (height / top))


def same(found: Sweep, expected: Sweep, way: str, beyond: float = 2e-5) -> None:
    """Every number is within 1e-5 of its value + `beyond`; float32."""
    for name in NAMES:
        one, two = getattr(found, name), getattr(expected, name)
        assert (one is None) == (two is None), (way, name)
        if two is not None:
            assert (one.dtype, one.shape) == (torch.float32, two.shape), (way, name)
            error = float(((one - two).abs() - 1e-5 * two.abs()).max())
            assert error <= beyond, f"{way} {name}: {error:.1e}"


def of_windows(
    windows: int, queries: int, keys: int, *, alone: set[str] | None = None
) -> SweepRequest:
    """All that a sweep can be asked, otherwise for each window but where `alone` names it."""
    stream = torch.Generator().manual_seed(windows)
    alone = alone or set()

    def random(name: str, *shape: int) -> Tensor:
        front = () if name in alone else (windows,)
        return torch.rand(*front, *shape, generator=stream)

    return SweepRequest(
        query_mask=random("query_mask", queries) > 0.2,
        prefix=random("prefix", keys) > 0.7,
        positions=(9 * random("from", queries, 2), 9 * random("to", keys, 2)),
        grid=random("grid", keys) > 0.4,
        weights=random("weights", 2, queries) / queries,
        squares=True,
    )
