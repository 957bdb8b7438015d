"""Drawn scenes: the same from the same seed, and masks that are exact."""

import math

import pytest
import torch
from scenes import KINDS, UNSEEN, Batch, Scenes
from scenes.chance import Chance
from scenes.fields import Fields
from scenes.objects import Pose, outline
from scenes.shapes import BOX, DETAIL, HOLE, PART, PARTS, ROUND, build


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(5, unseen=0.2)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True))


def test_a_batch_depends_on_its_seed_and_number_alone(scenes: Scenes) -> None:
    first = scenes.draw(3, height=40, width=56, number=7)
    scenes.draw(2, height=24, width=24, number=1)
    assert same(first, scenes.draw(3, height=40, width=56, number=7))
    assert same(first, Scenes(5, unseen=0.2).draw(3, height=40, width=56, number=7))
    assert not same(first, scenes.draw(3, height=40, width=56, number=8))
    assert not same(first, Scenes(6, unseen=0.2).draw(3, height=40, width=56, number=7))


def test_every_object_has_a_kind_and_every_kind_an_object(scenes: Scenes) -> None:
    drawn = scenes.draw(120, height=64, width=64)
    for number in (1, 2):
        there = (drawn.objects == number).flatten(1).any(1)
        assert (drawn.kinds[there, number - 1] >= 0).all()
    many = (drawn.objects > 2).flatten(1).any(1)
    assert many.any()
    assert (drawn.kinds[many, 2] >= 0).all()
    empty = (drawn.kinds < 0).all(1)
    assert not drawn.objects[empty].any()
    assert 0 < empty.sum() < 20


def test_what_is_never_trained_on_is_not_drawn_unless_asked_for(scenes: Scenes) -> None:
    strange = {KINDS.index(kind) for kind in UNSEEN}
    trained = Scenes(5).draw(150, height=16, width=16).kinds
    assert strange.isdisjoint(trained.flatten().tolist())
    assert strange <= set(scenes.draw(150, height=16, width=16).kinds.flatten().tolist())


def area(rows: list[list[float]], size: float = 0.5, side: int = 200) -> tuple[float, float]:
    """Area and area of details, in units of the object, of parts drawn without any warp."""
    parts = torch.zeros(1, PARTS, 8)
    parts[..., 2:4] = 1
    parts[0, : len(rows)] = torch.tensor(rows)
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    places = line[None].expand(1, side, side), line[:, None].expand(1, side, side)
    one, zero = torch.ones(1), torch.zeros(1)
    still = Still(0)
    pose = Pose(zero, zero, one * size, zero, one)
    shape = outline(still, Fields(Chance(0)), parts, pose, places, pixel=2 / side)
    unit = (2 / side / size) ** 2
    return float((shape.cover > 0.5).sum()) * unit, float((shape.details > 0.5).sum()) * unit


class Still(Chance):
    """Draws nothing but zeros: objects are not bent."""

    def uniform(self, count: int, low: float, high: float, *more: int) -> torch.Tensor:
        del low, high
        return torch.zeros(count, *more)

    def normal(self, count: int, deviation: float, *more: int) -> torch.Tensor:
        del deviation
        return torch.zeros(count, *more)


def test_parts_cover_what_geometry_says() -> None:
    ellipse = [0, 0, 0.8, 0.5, 0.7, ROUND, PART, 0]
    assert area([ellipse])[0] == pytest.approx(math.pi * 0.8 * 0.5, rel=0.01)
    box = [0, 0, 0.8, 0.5, 0, BOX, PART, 0]
    assert area([box])[0] == pytest.approx(4 * 0.8 * 0.5, rel=0.02)
    hole = [0, 0, 0.4, 0.25, 0, ROUND, HOLE, 0]
    assert area([box, hole])[0] == pytest.approx(4 * 0.4 - math.pi * 0.1, rel=0.02)
    apart = [[x, 0, 0.3, 0.3, 0, ROUND, PART, 0] for x in (-0.6, 0.6)]
    assert area(apart)[0] == pytest.approx(2 * math.pi * 0.09, rel=0.02)
    spot = [0.1, 0, 0.2, 0.2, 0, ROUND, DETAIL, 0]
    assert area([box, spot]) == pytest.approx((4 * 0.4, math.pi * 0.04), rel=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_seen(kind: str) -> None:
    parts = build(Chance(1), torch.full((20,), KINDS.index(kind)))
    assert parts.shape == (20, PARTS, 8)
    assert torch.isfinite(parts).all()
    assert (parts[:, :, 6] == PART).any(1).all()
    assert len({tuple(row) for row in parts.flatten(1).tolist()}) == 20  # no two alike


def test_a_picture_changes_at_its_object_more_than_elsewhere() -> None:
    """The mask lies where the object is drawn: an empty scene differs most inside of it."""
    from scenes.objects import painted  # noqa: PLC0415

    chance, count, side = Chance(3), 24, 64
    fields = Fields(Chance(0))
    line = (torch.arange(side) + 0.5) / side * 2 - 1
    places = line.expand(count, side, side), line[:, None].expand(count, side, side)
    one, zero = torch.ones(count), torch.zeros(count)
    pose = Pose(zero + 0.3, zero - 0.2, one * 0.4, zero, one)
    parts = build(chance, chance.pick(count, len(KINDS)))
    shape = outline(chance, fields, parts, pose, places, pixel=2 / side)
    before = torch.full((count, 3, side, side), 0.5)
    light = torch.tensor([[0.6, -0.8]]).expand(count, 2)
    after = painted(chance, fields, before, shape, pose, light=light, pixel=2 / side)
    change = (after - before).abs().mean(1)
    inside = shape.cover > 0.9
    assert float(change[inside].mean()) > 4 * float(change[shape.cover < 0.01].mean())
    far = places[0] < -0.75  # further than any shadow falls
    assert float(change[far].max()) < 1e-3
