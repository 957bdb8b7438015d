import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.geometry.grid import Layout, TokenGrid
from attnviz.geometry.placement import Fit, Placement, overlaps, place

SIDES = st.integers(1, 3000)
FITS: st.SearchStrategy[Fit] = st.sampled_from(get_args(Fit))


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    patch = draw(st.sampled_from([1, 7, 8, 14, 16]))
    tokens = st.integers(1, 40)
    own = st.tuples(tokens, tokens).map(lambda grid: (grid[0] * patch, grid[1] * patch))
    return place(
        draw(SIDES),
        draw(SIDES),
        size=draw(st.integers(1, 300)),
        patch=patch,
        fit=draw(FITS),
        shape=draw(st.none() | own),
    )


@given(placements(), st.floats(0, 1), st.floats(0, 1))
def test_to_picture_undoes_to_input(placement: Placement, u: float, v: float) -> None:
    x, y = u * placement.picture_width, v * placement.picture_height
    there = placement.to_input(x, y)
    back = placement.to_picture(*there)
    assert back == pytest.approx((x, y), abs=1e-6)


@given(placements())
def test_the_source_fills_the_target_and_lies_on_the_picture(placement: Placement) -> None:
    source, target = placement.source, placement.target
    assert placement.to_input(source.left, source.top) == (target.left, target.top)
    corner = placement.to_input(source.right, source.bottom)
    assert corner == pytest.approx((target.right, target.bottom))
    assert 0 <= source.left < source.right <= placement.picture_width
    assert 0 <= source.top < source.bottom <= placement.picture_height
    assert 0 <= target.left < target.right <= placement.grid.input_width
    assert 0 <= target.top < target.bottom <= placement.grid.input_height


@given(placements())
def test_a_token_lies_where_its_box_lies(placement: Placement) -> None:
    for row in {0, placement.grid.rows // 2, placement.grid.rows - 1}:
        for column in {0, placement.grid.columns - 1}:
            box = placement.token_box(row, column)
            centre = (box.left + box.right) / 2, (box.top + box.bottom) / 2
            assert placement.token_at(*centre) == (row, column)


@given(placements())
def test_tokens_cover_the_source_exactly_once(placement: Placement) -> None:
    """Shares of the whole picture, times the area of a token, add up to the source's area."""
    shares = placement.coverage(0, 0, placement.picture_width, placement.picture_height)
    token = placement.token_box(0, 0)
    area = placement.source.width * placement.source.height
    assert shares.sum() * token.width * token.height == pytest.approx(area, rel=1e-6)
    assert shares.min() >= 0
    assert shares.max() <= 1 + 1e-9


@given(placements(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_coverage_of_a_box_is_the_average_of_its_mask(
    placement: Placement, a: float, b: float, c: float, d: float
) -> None:
    width, height = min(placement.picture_width, 200), min(placement.picture_height, 150)
    placement = place(width, height, size=64, patch=8, fit=placement.fit)
    left, right = sorted((int(a * width), int(b * width)))
    top, bottom = sorted((int(c * height), int(d * height)))
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    expected = placement.coverage(left, top, right, bottom)
    np.testing.assert_allclose(placement.average(mask), expected, atol=1e-9)


@given(SIDES, SIDES, st.integers(16, 300), st.sampled_from([1, 8, 16]))
def test_keep_has_about_the_same_number_of_tokens_for_every_shape(
    width: int, height: int, size: int, patch: int
) -> None:
    grid = place(width, height, size=size, patch=patch).grid
    budget = (size / patch) ** 2
    exact = math.sqrt(budget * height / width), math.sqrt(budget * width / height)
    if min(exact) >= 1:
        assert abs(grid.rows - exact[0]) <= 0.5 + 1e-9
        assert abs(grid.columns - exact[1]) <= 0.5 + 1e-9
    else:
        assert min(grid.rows, grid.columns) == 1
        assert max(grid.rows, grid.columns) == max(1, math.floor(budget + 0.5))


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (224, 224, 14, 14),
        (320, 160, 10, 20),
        (160, 320, 20, 10),
        (1, 1, 14, 14),
        (10000, 3, 1, 196),
    ],
)
def test_known_grids(width: int, height: int, rows: int, columns: int) -> None:
    grid = place(width, height, size=224, patch=16).grid
    assert (grid.rows, grid.columns) == (rows, columns)


def test_the_contracts_example() -> None:
    grid = place(451, 300, size=137, patch=8, prefix=1).grid
    assert grid == TokenGrid(14, 21, 8, prefix=1)
    assert (grid.input_width, grid.input_height, grid.tokens) == (168, 112, 295)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_other_fits_are_square(fit: Fit) -> None:
    grid = place(700, 300, size=224, patch=16, fit=fit).grid
    assert (grid.rows, grid.columns) == (14, 14)


def test_crop_takes_the_centre_and_pad_leaves_room() -> None:
    crop = place(700, 300, size=224, patch=16, fit="crop")
    assert crop.source == (200, 0, 500, 300)
    assert crop.token_at(100, 100) is None
    pad = place(700, 350, size=224, patch=16, fit="pad")
    assert pad.target == (0, 56, 224, 168)
    assert pad.token_at(0, 0) == (3, 0)


@given(placements())
def test_the_inverse_is_exact_at_every_token_of_an_input_of_any_shape(placement: Placement) -> None:
    """Corners of tokens, there and back, in units in the last place."""
    grid = placement.grid
    for row, column in ((0, 0), (grid.rows, 0), (grid.rows // 2, grid.columns), (grid.rows,) * 2):
        x, y = column * grid.cell_width, row * grid.cell_height
        there = placement.to_input(*placement.to_picture(x, y))
        assert there == pytest.approx((x, y), rel=1e-12, abs=1e-9)


@given(SIDES, SIDES, st.integers(1, 60), st.integers(1, 60))
def test_crop_of_an_own_shape_is_the_largest_part_of_its_aspect_ratio(
    width: int, height: int, rows: int, columns: int
) -> None:
    shape = rows * 16, columns * 16
    placement = place(width, height, size=1, patch=16, fit="crop", shape=shape)
    source, grid = placement.source, placement.grid
    assert (grid.rows, grid.columns) == (rows, columns)
    assert placement.target == (0, 0, shape[1], shape[0])
    exact = min(width / columns, height / rows)  # picture pixels of a token's side
    assert abs(source.width - max(1, exact * columns)) <= 0.5 + 1e-9
    assert abs(source.height - max(1, exact * rows)) <= 0.5 + 1e-9
    assert source.width == width or source.height == height
    for near, far in ((source.left, width - source.right), (source.top, height - source.bottom)):
        assert 0 <= far - near <= 1  # centred on whole pixels


@given(SIDES, SIDES, st.integers(1, 60), st.integers(1, 60))
def test_pad_to_an_own_shape_keeps_the_whole_picture_and_its_aspect_ratio(
    width: int, height: int, rows: int, columns: int
) -> None:
    shape = rows * 16, columns * 16
    placement = place(width, height, size=1, patch=16, fit="pad", shape=shape)
    target = placement.target
    assert placement.source == (0, 0, width, height)
    exact = min(shape[1] / width, shape[0] / height)  # input pixels of a picture pixel
    assert abs(target.width - max(1, exact * width)) <= 0.5 + 1e-9
    assert abs(target.height - max(1, exact * height)) <= 0.5 + 1e-9
    assert target.width == shape[1] or target.height == shape[0]


def test_an_own_shape_of_128_by_256() -> None:
    crop = place(700, 300, size=181, patch=16, fit="crop", shape=(256, 128))
    assert (crop.grid.rows, crop.grid.columns) == (16, 8)
    assert crop.source == (275, 0, 425, 300)
    assert crop.token_at(275, 0) == (0, 0)
    assert crop.token_at(424.9, 299.9) == (15, 7)
    assert crop.token_at(274.9, 0) is None
    pad = place(700, 350, size=181, patch=16, fit="pad", shape=(256, 128))
    assert pad.target == (0, 96, 128, 160)
    squash = place(700, 300, size=181, patch=16, fit="squash", shape=(256, 128))
    assert squash.source == (0, 0, 700, 300)
    assert squash.token_box(15, 7) == pytest.approx((612.5, 281.25, 700, 300))
    keep = place(700, 300, size=181, patch=16, fit="keep", shape=(256, 128))
    assert keep == place(700, 300, size=181, patch=16)


def test_centres_run_row_by_row() -> None:
    assert TokenGrid(2, 3, 10).centres().tolist() == [
        [5, 5], [15, 5], [25, 5], [5, 15], [15, 15], [25, 15],
    ]  # fmt: skip


def test_overlaps_of_shifted_intervals() -> None:
    lengths = overlaps(np.array([0.0, 2.0, 4.0]), np.array([1.0, 3.0, 7.0]))
    assert lengths.tolist() == [[1, 0], [1, 1]]


def test_a_whole_layout_is_the_prefix_and_then_the_grid() -> None:
    layout = Layout.whole(TokenGrid(2, 3, 16, prefix=2))
    assert layout.cells.tolist() == [[-1, -1, 0, 1, 2, 3, 4, 5]]
    assert (layout.rows, layout.columns, layout.windows, layout.outside) == (2, 3, 1, 2)
    assert Layout.whole(TokenGrid(2, 3, 16)).cells.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_tokens_of_a_layout_have_what_their_cells_have() -> None:
    layout = Layout(2, 2, np.array([[3, -1, 0], [1, 2, 3]]))
    assert layout.of_tokens(np.array([10, 11, 12, 13]), np.int64(7)).tolist() == [
        [13, 7, 10], [11, 12, 13],
    ]  # fmt: skip
    places = layout.of_tokens(np.arange(8.0).reshape(4, 2), np.float64(-1))
    assert places[0].tolist() == [[6, 7], [-1, -1], [0, 1]]
    assert layout.count(np.ones((2, 3), dtype=bool)).tolist() == [1, 1, 1, 2]
    assert layout.count(layout.cells < 1).tolist() == [1, 0, 0, 0]
