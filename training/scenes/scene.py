"""A scene: a background, objects before it, a camera."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scenes.backgrounds import background
from scenes.camera import photographed
from scenes.chance import Chance
from scenes.fields import Fields
from scenes.objects import Pose, outline, painted
from scenes.shapes import KINDS, OFTEN, UNSEEN, UPRIGHT, build

__all__ = ["KINDS", "UNSEEN", "Batch", "Scenes"]

EMPTY = 0.03
"""Share of scenes without any object."""


@dataclass(frozen=True)
class Batch:
    """Scenes of one size.

    Attributes:
        pictures: (B, 3, H, W) uint8.
        objects: (B, H, W) uint8, 0 where there is none, else the number of the object.
        details: (B, H, W), 0 to 1: eyes, windows, labels, buttons.
        kinds: (B, objects) long, the kind of each object, −1 where there is none.
    """

    pictures: Tensor
    objects: Tensor
    details: Tensor
    kinds: Tensor


Placed = tuple[Pose, tuple[Tensor, Tensor], Tensor]
KindsOf = Callable[[Chance, int], Tensor]
Posed = Callable[[Tensor], Placed]


class Scenes:
    """Scenes from a seed; a generator that is made alike draws alike.

    Args:
        seed: of everything drawn.
        unseen: share of the objects that are of a kind never trained on.

    >>> Scenes(0).draw(2, height=64, width=96).pictures.shape
    torch.Size([2, 3, 64, 96])
    """

    def __init__(self, seed: int, *, unseen: float = 0.0) -> None:
        self._seed, self._unseen = seed, unseen
        self._fields = Fields(Chance(seed, 0))

    @torch.no_grad()
    def draw(self, count: int, *, height: int, width: int, number: int = 0) -> Batch:
        """Batch `number` of this seed, whatever was drawn before it."""
        drawing = _Drawing(Chance(self._seed, 1 + number), self._fields, count, height, width)
        return drawing.finish(self._kinds)

    def _kinds(self, chance: Chance, count: int) -> Tensor:
        weights = [0.0 if kind in UNSEEN else OFTEN.get(kind, 1.0) for kind in KINDS]
        known = chance.weighted(count, weights)
        strange = chance.weighted(count, [float(kind in UNSEEN) for kind in KINDS])
        return torch.where(chance.happens(count, self._unseen), strange, known)


class _Drawing:
    """One batch while it is drawn."""

    def __init__(self, chance: Chance, fields: Fields, count: int, height: int, width: int) -> None:
        self.chance, self.fields, self.count = chance, fields, count
        self.pixel = 2 / (height * width) ** 0.5
        self.y = ((torch.arange(height) + 0.5) * self.pixel - height * self.pixel / 2)[:, None]
        self.x = ((torch.arange(width) + 0.5) * self.pixel - width * self.pixel / 2)[None]
        self.edge = torch.tensor([width * self.pixel / 2, height * self.pixel / 2])
        self.picture = background(chance, fields, self.x, self.y, count)
        self.objects = torch.zeros(count, height, width, dtype=torch.uint8)
        self.details = torch.zeros(count, height, width)
        self.kinds = torch.full((count, 3), -1)
        turn = chance.uniform(count, -2.4, 2.4)  # light comes from above, mostly
        self.light = torch.stack([turn.sin(), -turn.cos()], 1)

    def finish(self, kinds: KindsOf) -> Batch:
        """Objects, then the camera."""
        chance = self.chance
        full = ~chance.happens(self.count, EMPTY)
        many = chance.happens(self.count, 0.1)
        main = kinds(chance, self.count)
        second = full & ~many & chance.happens(self.count, 0.3)
        before = second & chance.happens(self.count, 0.5)
        self._add(second & ~before, kinds(chance, self.count), 1, self._small)
        self._add(full & ~many, main, 0, self._any)
        self._add(before, kinds(chance, self.count), 1, self._small)
        self._add(full & many, main, 2, self._repeated)
        picture = photographed(chance, self.picture, self.x, self.y)
        pixels = (picture * 255 + 0.5).to(torch.uint8)
        return Batch(pixels, self.objects, self.details, self.kinds)

    def _add(self, where: Tensor, kinds: Tensor, slot: int, posed: Posed) -> None:
        """Draw an object of its kind into the pictures of `where`."""
        rows = where.nonzero()[:, 0]
        if not len(rows):
            return
        kinds, light = kinds[rows], self.light[rows]
        pose, places, numbers = posed(kinds)
        parts = build(self.chance, kinds)
        shape = outline(self.chance, self.fields, parts, pose, places, pixel=self.pixel)
        there = shape.cover * (numbers > 0)
        shape = replace(shape, cover=there)
        self.picture[rows] = painted(
            self.chance, self.fields, self.picture[rows], shape, pose, light=light, pixel=self.pixel
        )
        mine = there > 0.5
        number = numbers + 2 if slot == 2 else torch.full_like(numbers, slot + 1)
        self.objects[rows] = torch.where(mine, number.to(torch.uint8), self.objects[rows])
        self.details[rows] = torch.where(mine, shape.details, self.details[rows])
        self.kinds[rows, slot] = kinds

    def _pose(self, kinds: Tensor, size: Tensor, x: Tensor, y: Tensor) -> Pose:
        chance, count = self.chance, len(kinds)
        upright = torch.tensor([kind in UPRIGHT for kind in KINDS])[kinds]
        tilted = chance.normal(count, 0.2)
        angle = torch.where(upright, tilted, chance.uniform(count, -3.1, 3.1))
        mirror = (
            torch.where(chance.happens(count, 0.5), 1.0, -1.0) * chance.normal(count, 0.13).exp()
        )
        return Pose(x, y, size, angle, mirror)

    def _any(self, kinds: Tensor) -> Placed:
        """One object anywhere: a third of them large, some larger than the picture."""
        chance, count = self.chance, len(kinds)
        size = torch.where(
            chance.happens(count, 0.35),
            chance.spread(count, 0.8, 2.2),
            chance.spread(count, 0.28, 0.9),
        )
        hollow = (kinds == KINDS.index("ring")) | (kinds == KINDS.index("chair"))
        size = torch.where(hollow, size.clamp_max(0.8), size)  # else what is behind fills the frame
        room = (self.edge - size[:, None] * 0.4).clamp_min(0.15)
        x = chance.uniform(count, -1, 1) * room[:, 0]
        y = chance.uniform(count, -1, 1) * room[:, 1]
        bust = (kinds == KINDS.index("bust")) & chance.happens(count, 0.8)
        bust |= (kinds == KINDS.index("face")) & chance.happens(count, 0.5)
        y = torch.where(bust, self.edge[1] - size * chance.uniform(count, 0.5, 1.1), y)
        return self._single(kinds, size, x, y)

    def _small(self, kinds: Tensor) -> Placed:
        """One more object, smaller and anywhere."""
        chance, count = self.chance, len(kinds)
        size = chance.spread(count, 0.17, 0.6)
        x = chance.uniform(count, -0.95, 0.95) * self.edge[0]
        return self._single(kinds, size, x, chance.uniform(count, -0.95, 0.95) * self.edge[1])

    def _single(self, kinds: Tensor, size: Tensor, x: Tensor, y: Tensor) -> Placed:
        shape = (len(kinds), len(self.y), self.x.shape[1])
        places = self.x.expand(shape), self.y.expand(shape)
        return self._pose(kinds, size, x, y), places, torch.ones(shape, dtype=torch.long)

    def _repeated(self, kinds: Tensor) -> Placed:
        """Many objects alike, each in a cell of a jittered grid: places are those in the cell."""
        chance, count = self.chance, len(kinds)
        cell = chance.spread(count, 0.45, 1.0)
        shape = (count, len(self.y), self.x.shape[1])
        shift = chance.uniform(count, 0, 1, 2) * cell[:, None]
        u = (self.x + shift[:, :1, None]).expand(shape) / cell[:, None, None]
        v = (self.y + shift[:, 1:, None]).expand(shape) / cell[:, None, None]
        column, row = u.floor() + 8, v.floor() + 8
        index = (row * 17 + column).long()
        jitter = chance.uniform(count, -0.12, 0.12, 2, 512)
        there = chance.uniform(count, 0, 1, 512) < chance.uniform(count, 0.25, 1.0, 1)
        flat = index.flatten(1)
        x = (u - u.floor() - 0.5 + jitter[:, 0].gather(1, flat).view(shape)) * cell[:, None, None]
        y = (v - v.floor() - 0.5 + jitter[:, 1].gather(1, flat).view(shape)) * cell[:, None, None]
        numbers = ((index % 250) + 1) * there.gather(1, flat).view(shape)
        zero = torch.zeros(count)
        size = cell * chance.uniform(count, 0.24, 0.34)
        return self._pose(kinds, size, zero, zero), (x, y), numbers
