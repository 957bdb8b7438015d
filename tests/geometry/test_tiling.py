"""Tiles cover the picture, and their maps are joined as the formula says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.geometry.placement import Fit, Placement, place
from attnviz.geometry.tiling import JoinedMaps, TilePlan, cell_size, plan_tiles

Maps = NDArray[np.float64]
Case = tuple[int, int, int, float, int, int, Fit]
CASES: list[Case] = [
    (500, 400, 224, 0.25, 224, 16, "keep"),  # cells of all but the last tiles coincide
    (300, 260, 90, 0.4, 64, 16, "squash"),  # cells of 22.5 pixels
    (210, 90, 130, 0.3, 64, 16, "pad"),  # lower than a tile
    (97, 101, 50, 0.5, 48, 8, "crop"),
    (64, 80, 224, 0.25, 64, 16, "keep"),  # one tile
]


def tiled(case: Case) -> tuple[TilePlan, Placement]:
    width, height, side, overlap, size, patch, fit = case
    wide, high = min(side, width), min(side, height)
    tile = place(wide, high, size=size, patch=patch, fit=fit)
    plan = plan_tiles(width, height, side, overlap, rows=tile.grid.rows, columns=tile.grid.columns)
    return plan, tile


def drawn(tile: Placement) -> NDArray[np.bool_]:
    cells: NDArray[np.bool_] = tile.coverage(0, 0, tile.picture_width, tile.picture_height) > 0
    return cells


def join(plan: TilePlan, tile: Placement, maps: list[Maps]) -> tuple[Maps, NDArray[np.bool_]]:
    whole = JoinedMaps(plan, tile, 1)
    for (left, top, *_), values in zip(plan.boxes(), maps, strict=True):
        whole.add(left, top, values[None], drawn(tile), tile)
    joined, cells = whole.result()
    return joined[0].astype(np.float64), cells


def oracle(plan: TilePlan, tile: Placement, maps: list[Maps]) -> Maps:
    """The formula, cell by cell; weights by hand."""
    whole = JoinedMaps(plan, tile, 1).placement
    result = np.zeros((whole.grid.rows, whole.grid.columns))
    seen, cells = tile.source, drawn(tile)
    for row in range(whole.grid.rows):
        for column in range(whole.grid.columns):
            box = whole.token_box(row, column)
            total = weight = 0.0
            for (left, top, *_), values in zip(plan.boxes(), maps, strict=True):
                for i, j in np.argwhere(cells):
                    cell = tile.token_box(int(i), int(j))
                    x0, x1 = max(cell.left, seen.left), min(cell.right, seen.right)
                    y0, y1 = max(cell.top, seen.top), min(cell.bottom, seen.bottom)
                    x, y = (x0 + x1) / 2, (y0 + y1) / 2
                    tent = (1 - abs(2 * (x - seen.left) / seen.width - 1)) * (
                        1 - abs(2 * (y - seen.top) / seen.height - 1)
                    )
                    across = min(x1 + left, box.right) - max(x0 + left, box.left)
                    down = min(y1 + top, box.bottom) - max(y0 + top, box.top)
                    if across > 0 and down > 0:
                        total += tent * across * down * values[i, j]
                        weight += tent * across * down
            result[row, column] = total / weight if weight > 1e-6 else 0
    return result


@pytest.mark.parametrize("case", CASES[1:])
def test_joined_maps_are_those_of_the_formula(
    case: Case,
) -> None:
    plan, tile = tiled(case)
    rng = np.random.default_rng(0)
    maps = [rng.random((tile.grid.rows, tile.grid.columns)) for _ in range(plan.count)]
    joined, _ = join(plan, tile, maps)
    np.testing.assert_allclose(joined, oracle(plan, tile, maps), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_constant_stays_constant_everywhere(
    case: Case,
) -> None:
    plan, tile = tiled(case)
    shape = tile.grid.rows, tile.grid.columns
    joined, cells = join(plan, tile, [np.full(shape, 0.3)] * plan.count)
    assert cells.all()
    np.testing.assert_allclose(joined, 0.3, rtol=1e-6)


def test_without_overlap_tiles_lie_side_by_side() -> None:
    plan, tile = tiled((3 * 64, 2 * 64, 64, 0.0, 64, 16, "keep"))
    maps = [np.random.default_rng(n).random((4, 4)) for n in range(6)]
    joined, _ = join(plan, tile, maps)
    rows = [np.hstack(maps[:3]), np.hstack(maps[3:])]
    np.testing.assert_allclose(joined, np.vstack(rows), rtol=3e-7)  # rounding of float32


def test_one_tile_is_its_own_map() -> None:
    plan, tile = tiled((64, 80, 224, 0.25, 64, 16, "keep"))
    values = np.random.default_rng(0).random((tile.grid.rows, tile.grid.columns))
    joined, _ = join(plan, tile, [values])
    assert plan.count == 1
    np.testing.assert_allclose(joined, values, rtol=1e-6)


def test_maps_that_follow_the_picture_are_joined_to_that_of_the_whole() -> None:
    """Where cells coincide, the window does not matter: all tiles say the same of a cell."""
    picture = np.random.default_rng(0).random((400, 500))
    plan, tile = tiled((500, 400, 224, 0.25, 224, 16, "keep"))
    plan = TilePlan(224, 0.25, 500, 400, (0, 160, 272), (0, 176))  # 276 would shift the cells
    maps = [tile.average(picture[y : y + h, x : x + w]) for x, y, w, h in plan.boxes()]
    joined, _ = join(plan, tile, maps)
    whole = JoinedMaps(plan, tile, 1).placement.average(picture)
    np.testing.assert_allclose(joined[:, :-1], whole[:, :-1], rtol=1e-5)  # the last one is cut


def test_two_tiles_fade_linearly_into_each_other() -> None:
    plan, tile = tiled((96, 64, 64, 0.5, 64, 8, "keep"))
    joined, _ = join(plan, tile, [np.zeros((8, 8)), np.ones((8, 8))])
    np.testing.assert_allclose(joined[3], [0] * 4 + [0.125, 0.375, 0.625, 0.875] + [1] * 4)


@settings(max_examples=200, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    side=st.integers(16, 400),
    overlap=st.floats(0, 0.9),
    cells=st.integers(1, 40),
)
def test_every_pixel_lies_in_a_tile_and_every_tile_on_the_picture(
    width: int, height: int, side: int, overlap: float, cells: int
) -> None:
    plan = plan_tiles(width, height, side, overlap, rows=cells, columns=cells)
    covered = np.zeros((height, width), dtype=bool)
    for x, y, w, h in plan.boxes():
        assert 0 <= x <= width - w
        assert 0 <= y <= height - h
        assert (w, h) == (min(side, width), min(side, height))
        covered[y : y + h, x : x + w] = True
    assert covered.all()
    assert len(set(plan.boxes())) == plan.count


@pytest.mark.parametrize(
    ("side", "cells", "stride"),
    [(224, 14, 160), (224, 28, 168), (512, 16, 384), (2048, 28, 1536), (227, 28, 170)],
)
def test_the_stride_is_whole_in_cells_where_it_can_be(side: int, cells: int, stride: int) -> None:
    plan = plan_tiles(10_000, 10_000, side, 0.25, rows=cells, columns=cells)
    assert plan.lefts[:3] == plan.tops[:3] == (0, stride, 2 * stride)
    assert plan.lefts[-1] == 10_000 - side


def test_cells_of_padding_are_left_out() -> None:
    plan, tile = tiled((100, 700, 224, 0.25, 144, 8, "pad"))
    grid = JoinedMaps(plan, tile, 1).placement.grid
    assert cell_size(tile)[0] * (grid.columns - 1) < 100
