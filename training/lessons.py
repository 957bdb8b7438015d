"""Makes the training batches: batches of one shape, several cut from each drawn batch."""

import math
from dataclasses import dataclass

import torch
from objective import Truth
from scenes import KINDS, Batch, Scenes
from scenes.chance import Chance
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from attnviz.models.tiny import LABELS, PATCH

USES = 4
"""The number of batches from each drawn batch: the whole, and crops."""
ASPECTS = (1.0, 1.0, 1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9)
ROOM = 1.25
"""The side of a drawing, as a multiple of the side of the model's input."""
SCENES_A_SEED = 40
"""The number of batches that are drawn from one bank of random fields."""
assert KINDS[: len(LABELS)] == LABELS


@dataclass(frozen=True)
class Lesson:
    """A batch: (B, 3, h, w) uint8 pixels, and the truth about them."""

    pixels: Tensor
    truth: Truth


@dataclass(frozen=True)
class Stage:
    """A part of the training: the share where it ends, the input sides, and the batch size."""

    until: float
    sides: tuple[int, ...]
    count: int


STAGES = (
    Stage(0.25, (64,), 64),
    Stage(0.82, (96,), 64),
    Stage(1.00, (96, 128, 160), 32),
)


class Lessons(Dataset[list[Lesson]]):
    """Item n is always the same: the n-th group of `USES` batches of a training."""

    def __init__(self, seed: int, items: int) -> None:
        self._seed, self._items = seed, items
        self._bank: tuple[int, Scenes] | None = None

    def __len__(self) -> int:
        return self._items

    def __getitem__(self, item: int) -> list[Lesson]:
        number = self._seed * 1_000_000 + item // SCENES_A_SEED
        if self._bank is None or self._bank[0] != number:
            self._bank = number, Scenes(number)
        stage = next(stage for stage in STAGES if item < stage.until * self._items)
        chance = Chance(self._seed, 1, item)
        side = stage.sides[int(chance.pick(1, len(stage.sides)))]
        aspect = math.sqrt(ASPECTS[int(chance.pick(1, len(ASPECTS)))])
        height, width = (PATCH * round(side * a / PATCH) for a in (1 / aspect, aspect))
        count = max(8, round(stage.count * min(1, (96 / side) ** 2)))
        drawn = self._bank[1].draw(
            count, height=round(ROOM * height), width=round(ROOM * width), number=item
        )
        shape = drawn.objects.shape[1:]
        boxes = [(0, 0, *shape)] + [_box(chance, shape, (height, width)) for _ in range(USES - 1)]
        return [_lesson(chance, _cut(drawn, box), (height, width)) for box in boxes]


def _box(chance: Chance, shape: tuple[int, ...], least: tuple[int, int]) -> tuple[int, ...]:
    """Top, left, height and width of a crop; some crops are smaller than the input."""
    share = float(chance.spread(1, 0.7, 1.15))
    size = [min(full, round(side * share)) for full, side in zip(shape, least, strict=True)]
    corner = [int(chance.pick(1, f - s + 1)) for f, s in zip(shape, size, strict=True)]
    return (*corner, *size)


def _cut(drawn: Batch, box: tuple[int, ...]) -> Batch:
    top, left, height, width = box
    rows, columns = slice(top, top + height), slice(left, left + width)
    return Batch(
        drawn.pictures[:, :, rows, columns],
        drawn.objects[:, rows, columns],
        drawn.details[:, rows, columns],
        drawn.kinds,
    )


def _lesson(chance: Chance, drawn: Batch, size: tuple[int, int]) -> Lesson:
    """A batch resized to the input: some pictures change colours, half of the batches mirror."""
    pictures = drawn.pictures.float()
    if pictures.shape[2:] != size:
        pictures = F.interpolate(pictures, size=size, mode="bilinear", antialias=True)
    order = torch.stack([torch.randperm(3, generator=chance.generator) for _ in pictures])
    order = torch.where(chance.happens(len(order), 0.4)[:, None], order, torch.arange(3))
    pictures = pictures.gather(1, order[:, :, None, None].expand_as(pictures))
    truth = truth_of(drawn, (size[0] // PATCH, size[1] // PATCH))
    if chance.happens(1, 0.5):
        pictures = pictures.flip(3)
        truth = Truth(truth.cover.flip(2), truth.details.flip(2), truth.label)
    return Lesson(pictures.round().clamp(0, 255).to(torch.uint8), truth)


def truth_of(drawn: Batch, grid: tuple[int, int]) -> Truth:
    """The truth about scenes, on a grid of rows and columns."""
    objects, details = (drawn.objects > 0).float(), drawn.details
    cover = F.adaptive_avg_pool2d(objects[:, None], grid)[:, 0]
    detail = F.adaptive_avg_pool2d((details * objects)[:, None], grid)[:, 0]
    areas = torch.stack(
        [
            (drawn.objects == 1).float().mean((1, 2)),
            (drawn.objects == 2).float().mean((1, 2)),
            (drawn.objects > 2).float().mean((1, 2)),
        ],
        1,
    )
    largest = areas.argmax(1, keepdim=True)
    kind = drawn.kinds.gather(1, largest)[:, 0]
    seen = (areas.gather(1, largest)[:, 0] > 0.004) & (kind < len(LABELS))
    return Truth(cover, detail, torch.where(seen, kind, -1))


def normalised(pixels: Tensor) -> Tensor:
    """The model's input from uint8 pixels: (value / 255 − 0.5) / 0.25."""
    return (pixels.float() / 255 - 0.5) / 0.25
