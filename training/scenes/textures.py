"""Textures: what surfaces of objects and of backgrounds are painted with."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scenes.chance import Chance, mix, over
from scenes.fields import FINE, FUR, LEAVES, SMOOTH, Fields


@dataclass(frozen=True)
class Surface:
    """Where a texture is asked for: places (B, H, W), and what varies it."""

    chance: Chance
    fields: Fields
    u: Tensor
    v: Tensor

    def field(self, kind: str, low: float = 30, high: float = 140) -> Tensor:
        """(B, H, W): a field that sticks to the surface."""
        scale = self.chance.spread(len(self.u), low, high)
        return self.fields.at(self.chance, kind, self.u, self.v, scale)

    def warped(self, most: float) -> tuple[Tensor, Tensor]:
        """Places moved about a little, so that nothing is as straight as a ruler."""
        strength = over(self.chance.uniform(len(self.u), 0, most) ** 2)
        return self.u + strength * self.field(SMOOTH), self.v + strength * self.field(SMOOTH)

    def waves(self, low: float, high: float) -> tuple[Tensor, Tensor]:
        """Phases along both axes, in radians."""
        u, v = self.warped(0.4)
        frequency = over(self.chance.spread(len(u), low, high)) * 2 * math.pi
        return u * frequency, v * frequency


def _flat(surface: Surface) -> Tensor:
    return torch.sigmoid(0.3 * surface.field(SMOOTH))


def _cloud(surface: Surface) -> Tensor:
    return torch.sigmoid(1.3 * surface.field(SMOOTH))


def _grain(surface: Surface) -> Tensor:
    return torch.sigmoid(surface.field(FINE, 60, 160))


def _fur(surface: Surface) -> Tensor:
    return torch.sigmoid(1.3 * surface.field(FUR, 50, 140) + 0.8 * surface.field(SMOOTH))


def _patches(surface: Surface) -> Tensor:
    return torch.sigmoid(9 * surface.field(SMOOTH))


def _leaves(surface: Surface) -> Tensor:
    return surface.field(LEAVES, 30, 200)


def _stripes(surface: Surface) -> Tensor:
    wave = torch.sin(surface.waves(0.8, 6)[0])
    return torch.sigmoid(wave * over(surface.chance.spread(len(wave), 1, 12)))


def _checks(surface: Surface) -> Tensor:
    u, v = surface.waves(0.5, 3.5)
    return torch.sigmoid(9 * u.sin() * v.sin())


def _dots(surface: Surface) -> Tensor:
    u, v = surface.waves(0.6, 4)
    size = over(surface.chance.uniform(len(u), 0.1, 0.7))
    return torch.sigmoid((u.cos() * v.cos() - size) * 10)


def _wood(surface: Surface) -> Tensor:
    along, across = surface.waves(0.4, 2)
    return 0.5 + 0.5 * torch.sin(across * 2 + 0.15 * along + 2.5 * surface.field(SMOOTH, 15, 50))


def _tiles(surface: Surface) -> Tensor:
    u, v = surface.waves(0.5, 3)
    row = (v / math.pi).floor()
    joint = torch.maximum((u + row * math.pi / 2).cos().abs(), v.cos().abs() * 0.99)
    return torch.sigmoid((0.985 - joint) * 80) * 0.8 + 0.2 * torch.sigmoid(surface.field(FINE))


TEXTURES: tuple[Callable[[Surface], Tensor], ...] = (
    _flat, _cloud, _grain, _fur, _patches, _leaves, _stripes, _checks, _dots, _wood, _tiles,
)  # fmt: skip
NATURAL = (1.5, 1.5, 1.2, 2.0, 1.0, 0.7, 0.7, 0.3, 0.4, 0.7, 0.2)
"""How often a texture is drawn, where nothing else is said."""
ORDERLY = (0, 0, 0, 0, 0.5, 0.5, 1.5, 1, 1, 0, 0.5)


def paint(surface: Surface, kinds: Tensor) -> Tensor:
    """(B, 3, H, W): each picture's places in a texture of its kind, between two colours."""
    chance, count = surface.chance, len(kinds)
    value = torch.empty_like(surface.u)
    for kind in sorted(set(kinds.tolist())):
        rows = (kinds == kind).nonzero()[:, 0]
        part = Surface(chance, surface.fields, surface.u[rows], surface.v[rows])
        value[rows] = TEXTURES[kind](part)
    first, second = chance.colour(count), chance.colour(count)
    second = mix(first, second, chance.uniform(count, 0.05, 1, 1))
    painted = mix(over(first), over(second), value[:, None])
    grain = over(chance.uniform(count, 0, 1) ** 2 * 0.1, 4) * surface.field(FINE)[:, None]
    return painted + grain
