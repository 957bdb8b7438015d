import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.geometry import Fit, Layout, Placement, TokenGrid, overlaps, place

SIDES = st.integers(1, 3000)
FITS: st.SearchStrategy[Fit] = st.sampled_from(get_args(Fit))


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    return place(
        draw(SIDES),
        draw(SIDES),
        size=draw(st.integers(1, 300)),
        patch=draw(st.sampled_from([1, 7, 8, 14, 16])),
        fit=draw(FITS),
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
