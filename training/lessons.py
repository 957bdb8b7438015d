"""Makes the training batches: composites, drawn scenes, and whole photographs, of one shape."""

import math
from dataclasses import dataclass

import torch
from composites import Composites
from material import Material
from objective import Truth
from scenes import KINDS, Batch, Scenes
from scenes.chance import Chance
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from attnviz.models.tiny import LABELS, PATCH

USES = 4
"""The number of lessons from one group of drawings: the whole drawings, and crops."""
ASPECTS = (1.0, 1.0, 1.0, 4 / 3, 3 / 4, 3 / 2, 2 / 3, 16 / 9)
SIDES = (96, 96, 96, 112, 128, 144)
"""The sides of inputs; square ones have as many pixels on both sides."""
COUNT = 32
"""The number of pictures of 96 × 96 pixels in a lesson; larger ones are fewer."""
SCENES, PHOTOGRAPHS = 0.09, 0.38
"""The shares of drawn scenes and of whole photographs in a lesson."""
FRESH = 3
"""The number of lessons of a group whose composites are drawn anew."""
ROOM = 1.2
"""The side of a drawing, as a multiple of the side of the model's input."""
SCENES_A_SEED = 40
"""The number of groups that are drawn from one bank of random fields."""
OF_SCENES = {
    "fruit": "fruit", "flower": "flower", "bottle": "dish", "rocket": "aircraft",
    "beast": "mammal", "face": "person", "bust": "person", "cup": "dish", "bird": "bird",
    "vehicle": "vehicle", "plant": "tree", "chair": "furniture", "person": "person",
}  # fmt: skip
"""The labels of the kinds of objects in drawn scenes; others have none."""
LABEL_OF_SCENE = torch.tensor([LABELS.index(OF_SCENES[k]) if k in OF_SCENES else -1 for k in KINDS])


@dataclass(frozen=True)
class Lesson:
    """A batch: (B, 3, h, w) uint8 pixels, the truth, and photographs of twice the side."""

    pixels: Tensor
    truth: Truth
    photographs: Tensor | None = None


class Lessons(Dataset[list[Lesson]]):
    """Item n is always the same: the n-th group of `USES` lessons of a training.

    Without material, all pictures are drawn scenes.
    """

    def __init__(self, seed: int, material: Material | None = None) -> None:
        self._seed = seed
        self._composites = None if material is None else Composites(material, seed)
        self._bank: tuple[int, Scenes] | None = None

    def __getitem__(self, item: int) -> list[Lesson]:
        chance = Chance(self._seed, 1, item)
        side = SIDES[int(chance.pick(1, len(SIDES)))]
        aspect = math.sqrt(ASPECTS[int(chance.pick(1, len(ASPECTS)))])
        size = (_odd(side / aspect), _odd(side * aspect))
        count = max(8, round(COUNT * (96 * 96) / (size[0] * size[1])))
        lessons = []
        fresh: Batch | None = None
        scenes = self._scenes(item, count, size)
        for use in range(USES):
            scene = scenes if use == 0 else _cut(scenes, _box(chance, scenes, size))
            parts = [_resized(chance, _labelled(scene), size, shuffled=True)]
            photographs = None
            if self._composites is not None:
                number = item * USES + use
                if fresh is None or use < FRESH:
                    fresh = whole = self._drawn(number, count, size)
                else:
                    whole = _cut(fresh, _box(chance, fresh, size))
                parts.insert(0, _resized(chance, whole, size))
                photographs = self._composites.photographs(
                    round(PHOTOGRAPHS * count), height=2 * size[0], width=2 * size[1], number=number
                )
            lessons.append(_lesson(parts, photographs))
        return lessons

    def _scenes(self, item: int, count: int, size: tuple[int, int]) -> Batch:
        number = self._seed * 1_000_000 + item // SCENES_A_SEED
        if self._bank is None or self._bank[0] != number:
            self._bank = number, Scenes(number)
        share = SCENES if self._composites is not None else 1
        height, width = (round(ROOM * length) for length in size)
        return self._bank[1].draw(round(share * count), height=height, width=width, number=item)

    def _drawn(self, number: int, count: int, size: tuple[int, int]) -> Batch:
        assert self._composites is not None
        count = count - round(SCENES * count) - round(PHOTOGRAPHS * count)
        height, width = (round(ROOM * length) for length in size)
        return self._composites.draw(count, height=height, width=width, number=number)


def _odd(length: float) -> int:
    """About this length, an odd number of patches: with the prefix an even number of tokens."""
    return PATCH * (2 * round((length / PATCH - 1) / 2) + 1)


def _labelled(drawn: Batch) -> Batch:
    """A drawn scene with our labels in place of its own kinds."""
    kinds = torch.where(drawn.kinds >= 0, LABEL_OF_SCENE[drawn.kinds], -1)
    return Batch(drawn.pictures, drawn.objects, drawn.details, kinds)


def _box(chance: Chance, drawn: Batch, least: tuple[int, int]) -> tuple[int, ...]:
    """Top, left, height and width of a crop; some crops are smaller than the input."""
    share = float(chance.spread(1, 0.7, 1.1))
    shape = drawn.objects.shape[1:]
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


def _resized(
    chance: Chance, drawn: Batch, size: tuple[int, int], *, shuffled: bool = False
) -> tuple[Tensor, Truth]:
    """A batch resized to the input: half of the batches mirror, some scenes change colours."""
    pictures = drawn.pictures.float()
    if pictures.shape[2:] != size:
        pictures = F.interpolate(pictures, size=size, mode="bilinear", antialias=True)
    if shuffled:
        order = torch.stack([torch.randperm(3, generator=chance.generator) for _ in pictures])
        order = torch.where(chance.happens(len(order), 0.4)[:, None], order, torch.arange(3))
        pictures = pictures.gather(1, order[:, :, None, None].expand_as(pictures))
    truth = truth_of(drawn, (size[0] // PATCH, size[1] // PATCH))
    if chance.happens(1, 0.5):
        pictures = pictures.flip(3)
        truth = Truth(truth.cover.flip(2), truth.details.flip(2), truth.kinds, truth.places.flip(2))
    return pictures.round().clamp(0, 255).to(torch.uint8), truth


def _lesson(parts: list[tuple[Tensor, Truth]], photographs: Tensor | None) -> Lesson:
    """Parts side by side; the guide looks at the last pictures, so the first are the scenes."""
    order = parts[::-1]
    pixels = torch.cat([part for part, _ in order])
    columns = zip(*(vars(truth).values() for _, truth in order), strict=True)
    return Lesson(pixels, Truth(*(torch.cat(values) for values in columns)), photographs)


def truth_of(drawn: Batch, grid: tuple[int, int]) -> Truth:
    """The truth about pictures, on a grid of rows and columns."""
    objects, details = (drawn.objects > 0).float(), drawn.details
    cover = F.adaptive_avg_pool2d(objects[:, None], grid)[:, 0]
    detail = F.adaptive_avg_pool2d((details * objects)[:, None], grid)[:, 0]
    slots = drawn.objects.clamp_max(drawn.kinds.shape[1])
    each = torch.stack([(slots == 1 + slot).float() for slot in range(drawn.kinds.shape[1])], 1)
    areas = each.mean((2, 3))
    known = ((areas > 0.004) & (drawn.kinds >= 0)).float()
    kinds = torch.zeros(len(areas), len(LABELS))
    kinds.scatter_add_(1, drawn.kinds.clamp_min(0), known * areas.sqrt())
    kinds = kinds / kinds.sum(1, keepdim=True).clamp_min(1e-6)
    shares = F.adaptive_avg_pool2d(each, grid)
    share, slot = shares.max(1)
    kind = drawn.kinds.gather(1, slot.flatten(1)).view_as(slot)
    return Truth(cover, detail, kinds, torch.where(share > 0.5, kind, -1))


def normalised(pixels: Tensor) -> Tensor:
    """The model's input from uint8 pixels: (value / 255 − 0.5) / 0.25."""
    return (pixels.float() / 255 - 0.5) / 0.25
