import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.geometry.placement import Fit, Placement, place, resample

SIDES = st.integers(1, 3000)
FITS: st.SearchStrategy[Fit] = st.sampled_from(get_args(Fit))


@st.composite
def pairs_of_placements(draw: st.DrawFn) -> tuple[Placement, Placement]:
    """Two ways to lay one picture into an input."""
    width, height = draw(SIDES), draw(SIDES)

    def placed() -> Placement:
        size, patch = draw(st.integers(8, 100)), draw(st.sampled_from([7, 8, 14, 16]))
        return place(width, height, size=size, patch=patch, fit=draw(FITS))

    return placed(), placed()


def a_map(placement: Placement) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Weights of every cell, and which of those on the picture take part: most."""
    rng = np.random.default_rng(placement.grid.grid_tokens)
    shape = placement.grid.rows, placement.grid.columns
    whole = placement.coverage(0, 0, placement.picture_width, placement.picture_height)
    return rng.random(shape), (whole > 0) & (rng.random(shape) > 0.2)


@given(pairs_of_placements(), st.floats(-1e3, 1e3))
def test_a_constant_map_is_constant_on_any_cells(
    both: tuple[Placement, Placement], value: float
) -> None:
    origin, cells = both
    _, drawn = a_map(origin)
    mean, share = resample(np.full(drawn.shape, value), drawn, origin, cells)
    np.testing.assert_allclose(mean[share > 0], value)
    assert not mean[share == 0].any()
    # What the maps say is float32: there it is constant to the last digit, and so are its ranks.
    assert np.unique(mean[share > 0].astype(np.float32)).size <= 1


@given(pairs_of_placements())
def test_a_map_on_its_own_cells_is_itself(both: tuple[Placement, Placement]) -> None:
    placement, _ = both
    values, drawn = a_map(placement)
    mean, share = resample(values, drawn, placement, placement)
    np.testing.assert_allclose(mean, np.where(drawn, values, 0), rtol=1e-12)
    np.testing.assert_allclose(share, drawn, rtol=1e-12)


@given(pairs_of_placements())
def test_the_mean_over_what_both_saw_is_kept(both: tuple[Placement, Placement]) -> None:
    origin, cells = both
    values, drawn = a_map(origin)
    mean, share = resample(values, drawn, origin, cells)
    box = cells.token_box(0, 0)
    whole = cells.coverage(*cells.source) * box.width * box.height  # pixels of each cell
    box = origin.token_box(0, 0)
    area = origin.coverage(*cells.source) * drawn * box.width * box.height
    assert (share * whole).sum() == pytest.approx(area.sum(), rel=1e-6)
    assert (mean * share * whole).sum() == pytest.approx((values * area).sum(), rel=1e-6)


@given(pairs_of_placements())
def test_means_lie_among_the_values_and_shares_are_shares(
    both: tuple[Placement, Placement],
) -> None:
    origin, cells = both
    values, drawn = a_map(origin)
    mean, share = resample(values, drawn, origin, cells)
    assert share.min() >= 0
    assert share.max() <= 1
    if (share > 0).any():
        assert mean[share > 0].min() >= values[drawn].min() - 1e-12
        assert mean[share > 0].max() <= values[drawn].max() + 1e-12


@pytest.mark.parametrize("fits", list(itertools.product(get_args(Fit), repeat=2)))
def test_a_map_on_other_cells_is_the_mean_of_its_pixels(fits: tuple[Fit, Fit]) -> None:
    """Every border of these cells lies between pixels, which can be counted."""
    origin = place(96, 24, size=48, patch=6, fit=fits[0])
    cells = place(96, 24, size=48, patch=8, fit=fits[1])
    values, drawn = a_map(origin)
    painted, seen = np.zeros((24, 96)), np.zeros((24, 96))
    for y, x in np.ndindex(24, 96):
        token = origin.token_at(x + 0.5, y + 0.5)
        if token is not None and drawn[token] and cells.token_at(x + 0.5, y + 0.5) is not None:
            painted[y, x], seen[y, x] = values[token], 1
    of_pixels = cells.average(seen)
    mean, share = resample(values, drawn, origin, cells)
    found = share > 0
    assert (found == (of_pixels > 1e-9)).all()
    np.testing.assert_allclose(mean[found], cells.average(painted)[found] / of_pixels[found])
    visible = cells.coverage(0, 0, 96, 24)
    np.testing.assert_allclose(share[found], (of_pixels / visible.clip(1e-12))[found])
