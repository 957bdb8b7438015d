"""Random numbers, every one from a single seeded generator."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Chance:
    """Draws tensors whose first axis is the picture; the same seed draws the same numbers.

    >>> Chance(0).uniform(3, 0.0, 1.0).shape
    torch.Size([3])
    """

    def __init__(self, *seed: int) -> None:
        mixed = 0
        for part in seed:  # so that neighbouring seeds share nothing
            mixed = (mixed * 0x9E3779B97F4A7C15 + part + 0x1234567) % (1 << 63)
        self.generator = torch.Generator().manual_seed(mixed)

    def uniform(self, count: int, low: float, high: float, *more: int) -> Tensor:
        """(count, *more) between `low` and `high`."""
        return torch.rand(count, *more, generator=self.generator) * (high - low) + low

    def normal(self, count: int, deviation: float, *more: int) -> Tensor:
        """(count, *more) about 0."""
        return torch.randn(count, *more, generator=self.generator) * deviation

    def spread(self, count: int, low: float, high: float, *more: int) -> Tensor:
        """(count, *more) whose logarithm is uniform."""
        return self.uniform(count, math.log(low), math.log(high), *more).exp()

    def happens(self, count: int, probability: float) -> Tensor:
        """(count,) boolean."""
        return torch.rand(count, generator=self.generator) < probability

    def sometimes(self, count: int, probability: float, low: float, high: float) -> Tensor:
        """(count,) uniform with a probability, else 0."""
        return self.uniform(count, low, high) * self.happens(count, probability)

    def pick(self, count: int, among: int) -> Tensor:
        """(count,) whole numbers below `among`."""
        return torch.randint(among, (count,), generator=self.generator)

    def weighted(self, count: int, weights: Sequence[float]) -> Tensor:
        """(count,) whole numbers, each as often as its weight says."""
        return torch.multinomial(
            torch.tensor(weights), count, replacement=True, generator=self.generator
        )

    def colour(self, count: int) -> Tensor:
        """(count, 3): any lightness and hue, most of them as muted as things are in photographs."""
        light = self.uniform(count, 0.04, 0.96, 1)
        hue = self.uniform(count, 0.0, 2 * math.pi, 1) + torch.tensor([0.0, -2.094, 2.094])
        saturation = self.uniform(count, 0.0, 0.85, 1) ** 2.2
        room = 0.35 + 0.65 * (1 - (2 * light - 1).abs())
        return (light + saturation * hue.cos() * room).clamp(0, 1)


def over(values: Tensor, dimensions: int = 3) -> Tensor:
    """Values of pictures, (B,) or (B, 3), so that they spread over (B, …, H, W)."""
    return values.reshape(*values.shape, *[1] * (dimensions - 1))


def mix(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """(1 − share)·first + share·second."""
    return first + (second - first) * share
