"""Kinds of objects, each put together of simple parts with random proportions.

A part is a row of eight numbers: centre x, y; half axes; angle; form; role; taper. Objects lie in
about −1…1, x to the right, y down. Parts are united; holes are cut out of what came before them,
details are painted on.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scenes.chance import Chance

PARTS = 12
ROUND, SOFT, BOX = 0.0, 1.0, 2.0
PART, HOLE, DETAIL = 1.0, 2.0, 3.0
Number = float | Tensor


class Builder:
    """Collects the parts of `count` objects of one kind."""

    def __init__(self, chance: Chance, count: int) -> None:
        self.chance, self.count = chance, count
        self._rows: list[Tensor] = []

    def u(self, low: float, high: float) -> Tensor:
        """(count,) uniform numbers."""
        return self.chance.uniform(self.count, low, high)

    def add(
        self,
        x: Number,
        y: Number,
        width: Number,
        height: Number,
        *,
        angle: Number = 0.0,
        form: Number = ROUND,
        role: float = PART,
        taper: Number = 0.0,
        often: float = 1.0,
    ) -> None:
        """One part; `often` is the share of the objects that have it."""
        there = role * self.chance.happens(self.count, often).float()
        numbers = (x, y, width, height, angle, form, there, taper)
        row = [torch.as_tensor(n, dtype=torch.float32).expand(self.count) for n in numbers]
        self._rows.append(torch.stack(row, 1))

    def form(self) -> Tensor:
        """(count,) any form."""
        return self.chance.pick(self.count, 3).float()

    def parts(self) -> Tensor:
        """(count, PARTS, 8), padded with parts that are not there."""
        made = torch.stack(self._rows, 1)
        padding = torch.zeros(self.count, PARTS - made.shape[1], 8)
        padding[..., 2:4] = 1
        return torch.cat([made, padding], 1)


def _lump(b: Builder) -> None:
    """A few shapes that overlap: a stone, a loaf, a cloud, anything."""
    b.add(0, 0, b.u(0.55, 1), b.u(0.4, 0.9), angle=b.u(-1, 1), form=b.form())
    for often in (0.7, 0.6, 0.4):
        x, y = b.u(-0.6, 0.6), b.u(-0.6, 0.6)
        b.add(x, y, b.u(0.2, 0.5), b.u(0.2, 0.5), angle=b.u(-2, 2), form=b.form(), often=often)
    for _ in range(3):
        x, y, size = b.u(-0.4, 0.4), b.u(-0.4, 0.4), b.u(0.05, 0.2)
        b.add(x, y, size, size * b.u(0.6, 1.4), role=DETAIL, form=b.form(), often=0.3)


def _fruit(b: Builder) -> None:
    b.add(0, 0.1, 0.85, b.u(0.6, 0.95), taper=b.u(-0.3, 0.3))
    b.add(0, -0.85, b.u(0.04, 0.09), 0.25, angle=b.u(-0.5, 0.5), form=SOFT, often=0.7)
    b.add(0.25, -0.85, 0.28, b.u(0.08, 0.15), angle=b.u(-0.7, 0.2), often=0.5)


def _crate(b: Builder) -> None:
    h = b.u(0.5, 0.95)
    b.add(0, 0, b.u(0.6, 1), h, form=BOX, taper=b.u(-0.15, 0.15))
    b.add(b.u(-0.3, 0.3), -h, b.u(0.3, 0.8), b.u(0.06, 0.25), form=BOX, often=0.6)
    for x in (-0.35, 0.35):
        b.add(x, b.u(-0.3, 0.3), b.u(0.1, 0.22), b.u(0.1, 0.3), form=BOX, role=DETAIL, often=0.5)


def _flower(b: Builder) -> None:
    turn, length = b.u(0, 1), b.u(0.4, 0.6)
    for petal in range(6):
        angle = turn + petal * math.pi / 3
        width = b.u(0.18, 0.34)
        b.add(0.55 * angle.cos(), 0.55 * angle.sin(), length, width, angle=angle)
    b.add(0, 0, 0.3, 0.3)
    b.add(0, 1.3, 0.05, 0.9, form=SOFT, often=0.5)
    b.add(0, 0, b.u(0.15, 0.3), 0.25, role=DETAIL, often=0.9)


def _ring(b: Builder) -> None:
    width, height = b.u(0.7, 1), b.u(0.6, 1)
    b.add(0, 0, width, height)
    hole = b.u(0.4, 0.75)
    b.add(0, 0, width * hole, height * hole, role=HOLE)


def _bottle(b: Builder) -> None:
    width, neck = b.u(0.22, 0.42), b.u(0.3, 0.6)
    b.add(0, 0.3, width, b.u(0.5, 0.7), form=SOFT)
    b.add(0, -0.5, width * neck, 0.5, form=SOFT)
    b.add(0, -0.25, width * 0.85, 0.3)
    b.add(0, -0.95, width * neck * 1.2, 0.07, form=BOX, often=0.7)
    b.add(0, 0.35, width * 0.9, b.u(0.12, 0.3), form=BOX, role=DETAIL, often=0.7)


def _rocket(b: Builder) -> None:
    """Anything slim and upright: a rocket, a tower, a monument, a lamp."""
    width = b.u(0.1, 0.28)
    b.add(0, 0, width, 0.95, form=b.form(), taper=b.u(0, 0.5))
    b.add(0, -0.85, width, b.u(0.25, 0.5), often=0.6)
    fin = b.u(0.08, 0.3)
    for side in (-1, 1):
        b.add(side * width, 0.7, fin, 0.3, angle=-0.3 * side, form=SOFT, often=0.7)
        b.add(side * width * 1.8, 0.2, width * 0.6, b.u(0.4, 0.7), form=SOFT, often=0.25)
    b.add(0, 1.1, width * 0.8, b.u(0.15, 0.5), taper=-0.6, often=0.5)
    for y in (-0.4, 0.1, 0.5):
        b.add(0, y, width * 0.7, b.u(0.04, 0.12), form=b.form(), role=DETAIL, often=0.5)


def _beast(b: Builder) -> None:
    """Something on four legs, seen from the side."""
    length, height = b.u(0.5, 0.75), b.u(0.25, 0.45)
    b.add(0.1, 0, length, height, angle=b.u(-0.15, 0.15))
    head = b.u(0.18, 0.34)
    x, y = -length * b.u(0.75, 1.2), -height * b.u(0.2, 1.7)
    b.add(x / 2 - 0.1, y / 2, 0.45, 0.2, angle=torch.atan2(y, x))
    b.add(x, y, head * b.u(1, 1.4), head)
    for side in (-0.6, 0.6):
        b.add(x + side * head, y - 0.85 * head, head * 0.28, head * b.u(0.35, 0.8), angle=side)
    leg, thick = b.u(0.3, 0.7), b.u(0.06, 0.13)
    for place in (-0.6, 0.2, 0.85):
        b.add(0.1 + place * length, height * 0.6 + leg / 2, thick, leg, form=SOFT)
    b.add(0.1 + length, -0.2, b.u(0.2, 0.45), b.u(0.04, 0.1), angle=b.u(-1.2, 0.8), often=0.8)
    b.add(x - 0.2 * head, y - 0.1 * head, head * 0.2, head * 0.2, role=DETAIL, often=0.9)


def _face(b: Builder) -> None:
    """The head of an animal, from the front, with or without shoulders."""
    width, height = b.u(0.55, 0.8), b.u(0.5, 0.75)
    b.add(0, 1.0, b.u(0.6, 1.4), b.u(0.6, 1), form=SOFT, often=0.65)
    b.add(0, 0, width, height, taper=b.u(-0.25, 0.3))
    ear, apart, tilt = b.u(0.15, 0.35), b.u(0.55, 0.8), b.u(0.1, 0.7)
    for side in (-1, 1):
        x, y = side * apart * width, -0.85 * height
        b.add(x, y, ear, ear * b.u(1, 1.9), angle=side * tilt, taper=b.u(0.2, 0.8))
    eye, between = b.u(0.08, 0.2), b.u(0.3, 0.5)
    for side in (-1, 1):
        x, y = side * between * width, -0.15 * height
        b.add(x, y, eye, eye * 0.8, angle=0.2 * side, role=DETAIL)
        b.add(x, y, eye * 0.45, eye * 0.6, role=DETAIL)
    b.add(0, b.u(0.15, 0.35), b.u(0.06, 0.14), 0.08, role=DETAIL, taper=-0.5)
    b.add(0, b.u(0.35, 0.5), b.u(0.1, 0.3), 0.03, role=DETAIL, form=SOFT, often=0.7)


def _bust(b: Builder) -> None:
    """A person from the chest or the hip up."""
    head = b.u(0.25, 0.4)
    b.add(0, 0.75, b.u(0.55, 1), b.u(0.6, 0.85), form=SOFT, taper=b.u(0.1, 0.5))
    b.add(0, -0.6, head * b.u(1.15, 1.5), head * b.u(1.2, 1.6), often=0.7)
    b.add(0, 0.05, head * 0.5, 0.35, form=SOFT)
    b.add(0, -0.5, head * 0.85, head * b.u(1, 1.25))
    for side in (-1, 1):
        b.add(side * 0.8, 0.8, 0.22, 0.7, angle=-0.15 * side, form=SOFT, often=0.7)
        b.add(side * head * 0.35, -0.55, head * 0.14, head * 0.08, role=DETAIL, often=0.9)
    b.add(0, -0.28, head * 0.3, head * 0.08, role=DETAIL, often=0.8)
    b.add(b.u(-0.3, 0.3), 0.7, 0.15, b.u(0.1, 0.4), form=b.form(), role=DETAIL, often=0.6)


def _cup(b: Builder) -> None:
    """A cup from above the side, often on a saucer."""
    width, height, flat = b.u(0.45, 0.65), b.u(0.35, 0.65), b.u(0.25, 0.6)
    b.add(0, height * 0.8, b.u(0.8, 1.2), flat * b.u(0.6, 1), often=0.65)
    side = torch.where(b.chance.happens(b.count, 0.5), 1.0, -1.0)
    b.add(side * width * 1.1, 0, b.u(0.22, 0.35), height * 0.55)
    b.add(side * width * 1.15, 0, 0.16, height * 0.35, role=HOLE, often=0.7)
    b.add(0, 0, width, height, form=SOFT, taper=-b.u(0, 0.4))
    b.add(0, -height * 0.9, width * b.u(1, 1.15), width * flat)
    b.add(0, -height * 0.9, width * 0.85, width * flat * 0.8, role=DETAIL)
    b.add(0.6, height, 0.6, 0.06, angle=b.u(-0.6, 0.6), form=SOFT, often=0.3)


def _bird(b: Builder) -> None:
    b.add(0, 0.1, b.u(0.5, 0.7), b.u(0.3, 0.45), angle=b.u(-0.5, 0.2))
    b.add(-0.5, -0.4, b.u(0.2, 0.3), 0.24)
    b.add(-0.35, -0.15, 0.25, 0.35)
    b.add(-0.8, -0.38, b.u(0.12, 0.3), 0.07, form=ROUND)
    b.add(0.75, b.u(-0.1, 0.4), 0.45, b.u(0.08, 0.2), angle=b.u(-0.4, 0.5), form=SOFT)
    b.add(0.15, b.u(-0.7, 0.1), 0.25, b.u(0.3, 0.7), angle=b.u(-0.9, 0.9), often=0.5)
    for x in (-0.05, 0.15):
        b.add(x, 0.65, 0.03, 0.25, form=BOX, often=0.7)
    b.add(-0.55, -0.45, 0.06, 0.06, role=DETAIL)
    b.add(0.1, 0.1, 0.4, 0.2, angle=0.2, role=DETAIL, often=0.6)


def _vehicle(b: Builder) -> None:
    height, cabin = b.u(0.18, 0.35), b.u(0.35, 0.7)
    b.add(0, 0.1, 1, height, form=SOFT)
    x = b.u(-0.3, 0.3)
    b.add(x, -height, cabin, b.u(0.25, 0.5), form=SOFT, taper=b.u(0, 0.4))
    wheel, apart = b.u(0.15, 0.28), b.u(0.5, 0.7)
    for side in (-1, 1):
        b.add(side * apart, 0.1 + height, wheel, wheel)
        b.add(side * apart, 0.1 + height, wheel * 0.5, wheel * 0.5, role=DETAIL)
        b.add(x + side * cabin * 0.4, -height, cabin * 0.3, 0.16, form=BOX, role=DETAIL)
    b.add(0.95, 0, 0.08, 0.07, role=DETAIL, often=0.7)


def _plant(b: Builder) -> None:
    """Leaves on a stem, often in a pot; also a tree."""
    b.add(0, 0.75, b.u(0.25, 0.45), b.u(0.2, 0.35), form=BOX, taper=-0.3, often=0.7)
    b.add(0, 0.2, b.u(0.04, 0.12), 0.7, form=SOFT)
    for leaf in range(7):
        angle = -math.pi * (leaf + b.u(0.2, 0.8)) / 7
        far, long = b.u(0.35, 0.6), b.u(0.2, 0.45)
        x, y = far * angle.cos(), -0.2 + far * angle.sin()
        b.add(x, y, long, b.u(0.08, 0.3), angle=angle + b.u(-0.4, 0.4))


def _chair(b: Builder) -> None:
    thin = b.u(0.05, 0.1)
    b.add(0, 0.1, 0.6, b.u(0.07, 0.2), form=SOFT)
    b.add(0.5, -0.45, thin, 0.6, form=BOX)
    b.add(b.u(0.1, 0.5), -0.55, 0.35, b.u(0.1, 0.4), form=SOFT, often=0.5)
    for x in (-0.5, -0.15, 0.2, 0.5):
        b.add(x, 0.55, thin, 0.5, form=BOX)


def _standing(b: Builder) -> None:
    """A person, whole."""
    b.add(0, -0.8, 0.14, b.u(0.15, 0.2))
    b.add(0, -0.84, 0.17, 0.15, often=0.6)
    b.add(0, -0.3, b.u(0.18, 0.3), 0.42, form=SOFT, taper=b.u(-0.3, 0.2))
    spread = b.u(0, 0.2)
    for side in (-1, 1):
        b.add(side * (0.1 + spread / 2), 0.5, 0.09, 0.55, angle=-side * spread * 0.7, form=SOFT)
        b.add(side * 0.3, -0.3, 0.07, 0.42, angle=side * b.u(-1.3, 0.3), form=SOFT)
    b.add(0, 0.2, b.u(0.2, 0.35), 0.35, form=SOFT, taper=0.5, often=0.4)
    b.add(0, -0.3, 0.12, 0.2, form=b.form(), role=DETAIL, often=0.5)


def _fish(b: Builder) -> None:
    b.add(0, 0, 0.75, b.u(0.25, 0.45))
    b.add(0.85, 0, 0.25, b.u(0.25, 0.4), form=SOFT, taper=-0.6)
    b.add(b.u(-0.1, 0.3), -0.35, 0.3, 0.18, angle=0.3, often=0.8)
    b.add(0.1, 0.3, 0.2, 0.15, angle=-0.3, often=0.6)
    b.add(-0.5, -0.05, 0.07, 0.07, role=DETAIL)


def _teapot(b: Builder) -> None:
    height = b.u(0.45, 0.65)
    b.add(0.75, 0, 0.35, height * 0.8)
    b.add(0.78, 0, 0.2, height * 0.5, role=HOLE)
    b.add(-0.8, -0.1, 0.4, 0.12, angle=b.u(0.5, 1), form=SOFT)
    b.add(0, 0, 0.65, height)
    b.add(0, -height, 0.35, 0.12)
    b.add(0, -height - 0.17, 0.09, 0.1)
    b.add(0, 0.05, 0.4, 0.15, role=DETAIL, form=b.form(), often=0.7)


BUILDERS: dict[str, Callable[[Builder], None]] = {
    "lump": _lump, "fruit": _fruit, "crate": _crate, "flower": _flower, "ring": _ring,
    "bottle": _bottle, "rocket": _rocket, "beast": _beast, "face": _face, "bust": _bust,
    "cup": _cup, "bird": _bird, "vehicle": _vehicle, "plant": _plant, "chair": _chair,
    "person": _standing, "fish": _fish, "teapot": _teapot,
}  # fmt: skip
KINDS = tuple(BUILDERS)
UNSEEN = ("fish", "teapot")
"""Drawn in held-out scenes only, never for training."""
UPRIGHT = set(KINDS) - {"lump", "fruit", "flower", "ring", "fish"}
"""What is not turned any which way."""
OFTEN = {"lump": 2.0, "face": 2.5, "bust": 2.0, "cup": 1.5, "beast": 1.5, "rocket": 1.5}
"""Kinds that are drawn more often than others: those that fill frames, or vary most."""


def build(chance: Chance, kinds: Tensor) -> Tensor:
    """(B, PARTS, 8): the parts of an object for each kind of `kinds` (B,)."""
    parts = torch.zeros(len(kinds), PARTS, 8)
    for kind in sorted(set(kinds.tolist())):
        rows = (kinds == kind).nonzero()[:, 0]
        builder = Builder(chance, len(rows))
        BUILDERS[KINDS[kind]](builder)
        parts[rows] = builder.parts()
    return parts
