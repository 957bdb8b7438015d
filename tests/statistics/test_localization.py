import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from attnviz.geometry.placement import place
from attnviz.statistics.localization import border_masses, scores, spatial_entropies
from attnviz.statistics.maps import describe

Map = NDArray[np.float64]


def parts_of(cells: set[tuple[int, int]]) -> list[set[tuple[int, int]]]:
    """Connected parts by 8 neighbours, found by a walk from cell to cell."""
    parts = []
    while cells:
        part, todo = set(), [cells.pop()]
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & cells
            cells -= near
            todo += near
        parts.append(part)
    return parts


def entropy_by_walk(values: Map) -> float:
    """The formula of the contract, cell by cell."""
    mean = math.fsum(values.ravel()) / values.size
    above = {(y, x) for y, x in np.ndindex(*values.shape) if values[y, x] > mean}
    masses = [math.fsum(values[cell] for cell in part) for part in parts_of(above)]
    total = math.fsum(masses)
    return -math.fsum(mass / total * math.log(mass / total) for mass in masses)


def border_by_sum(values: Map) -> float:
    rows, columns = values.shape
    ring = [
        values[y, x]
        for y, x in np.ndindex(rows, columns)
        if y in (0, rows - 1) or x in (0, columns - 1)
    ]
    return math.fsum(ring) / math.fsum(values.ravel())


grids = npst.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 6).map(float),
).filter(lambda a: a.max() > a.min())  # fmt: skip


@given(grids)
def test_numbers_agree_with_a_walk_over_the_cells(values: Map) -> None:
    assert spatial_entropies(values[None])[0] == pytest.approx(entropy_by_walk(values), abs=1e-12)
    assert border_masses(values[None])[0] == pytest.approx(border_by_sum(values), abs=1e-12)


@given(st.lists(grids, min_size=2, max_size=4))
def test_many_maps_at_once_are_as_each_alone(maps: list[Map]) -> None:
    alike = [m for m in maps if m.shape == maps[0].shape]
    together = scores(np.stack(alike))
    assert together.tolist() == [scores(m[None])[0] for m in alike]


def test_a_long_winding_part_is_one() -> None:
    snake = np.zeros((31, 31))
    snake[::2] = 1
    snake[1::4, -1] = snake[3::4, 0] = 1
    assert spatial_entropies(snake[None])[0] == 0
    snake[3::4, 0] = 0  # each bridge on the left is taken away
    assert spatial_entropies(snake[None])[0] == pytest.approx(entropy_by_walk(snake))


def test_a_uniform_map_has_the_border_of_the_contract_and_is_flat() -> None:
    uniform = np.full((1, 14, 14), 1 / 196)
    assert border_masses(uniform)[0] == pytest.approx(0.265306, abs=5e-7)
    noisy = (uniform * (1 + 1e-8 * np.arange(196).reshape(14, 14))).astype(np.float32)
    assert spatial_entropies(noisy.astype(np.float64))[0] == 0
    assert scores(uniform)[0] == math.inf


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 5), (5, 2), (7, 1)])
def test_a_grid_without_an_inside_is_all_border(shape: tuple[int, int]) -> None:
    values = np.arange(1.0, 1 + np.prod(shape)).reshape(1, *shape)
    assert border_masses(values)[0] == 1


def test_cells_that_are_not_drawn_count_nowhere() -> None:
    placement = place(150, 150, size=150, patch=30)
    values = np.full((5, 5), 0.1, dtype=np.float32)
    values[2, 2] = 0.4
    values[0] = 9
    drawn = np.ones((5, 5), dtype=bool)
    drawn[0] = False
    numbers = describe(values, drawn, placement)
    assert numbers.spatial_entropy == 0  # the middle alone is above the mean of 20 cells
    mass = 19 * 0.1 + 0.4
    assert numbers.border_mass == pytest.approx(11 * 0.1 / mass)  # the row at the top is away
    assert numbers.border_ratio == pytest.approx(11 * 0.1 / mass / (11 / 20))


def test_weights_below_zero_count_as_zero() -> None:
    values = np.full((1, 5, 5), -1.0)
    values[0, 2, 2] = 1
    assert spatial_entropies(values)[0] == border_masses(values)[0] == 0
