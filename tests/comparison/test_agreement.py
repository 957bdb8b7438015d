import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.comparison import AGREEMENTS, MOST, check_count
from attnviz.comparison.compare import jaccard60
from attnviz.errors import UsageError
from attnviz.statistics.correlation import pearson, ranks, spearman

Weights = NDArray[np.float64]
WEIGHTS = st.integers(0, 6).map(lambda n: n / 7)  # few values, so that many are equal
MAPS = st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=2, max_size=40)


def by_definition(first: list[float], second: list[float]) -> float:
    """Spearman's ρ from counts of pairs alone: a rank is ½ + #{smaller} + ½·#{equal}."""

    def rank(values: list[float], own: float) -> float:
        return sum((v < own) + 0.5 * (v == own) for v in values) + 0.5

    a = [rank(first, own) for own in first]
    b = [rank(second, own) for own in second]
    n = len(a)
    of = [
        sum((x[i] - x[j]) * (y[i] - y[j]) for i, j in itertools.product(range(n), repeat=2))
        for x, y in ((a, b), (a, a), (b, b))
    ]
    return of[0] / math.sqrt(of[1] * of[2])


def halves(values: list[float]) -> set[int]:
    """The smallest set with 60 % of the mass, cell by cell."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    taken: set[int] = set()
    for i in order:
        if sum(values[j] for j in taken) >= 0.6 * sum(values) - 1e-6:
            break
        taken.add(i)
    return taken


@given(MAPS)
def test_numbers_are_their_definitions(cells: list[tuple[float, float]]) -> None:
    first, second = ([cell[i] for cell in cells] for i in (0, 1))
    a, b = np.array(first), np.array(second)
    if len(set(first)) > 1 and len(set(second)) > 1:
        assert spearman(a, b) == pytest.approx(by_definition(first, second), abs=1e-12)
        assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-12)
    if sum(first) and sum(second):
        sets = halves(first), halves(second)
        assert jaccard60(a, b) == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    else:
        assert math.isnan(jaccard60(a, b))


def test_ranks_without_ties_are_the_order() -> None:
    values = np.random.default_rng(0).permutation(50)
    np.testing.assert_array_equal(ranks(values / 7), values + 1)


def test_ties_share_their_ranks() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 5.0, 0.0])).tolist() == [4, 2, 4, 4, 1]


def test_a_known_rank_correlation() -> None:
    """Kendall's example of 1−6Σd²/(n³−n), without ties: d² = 4+1+4+1 of five."""
    first, second = np.array([1.0, 2, 3, 4, 5]), np.array([3.0, 1, 5, 4, 2])
    d = ((first - second) ** 2).sum()
    assert spearman(first, second) == pytest.approx(1 - 6 * d / (5**3 - 5))


@pytest.mark.parametrize("change", [np.exp, np.cbrt, lambda x: 7 * x - 3])
def test_what_orders_alike_has_rank_correlation_1(change: np.ufunc) -> None:
    values = np.random.default_rng(0).normal(size=99)
    assert spearman(values, change(values)) == 1
    assert spearman(values, -change(values)) == -1


def test_small_weights_lose_nothing() -> None:
    first, second = np.random.default_rng(0).random((2, 99))
    tiny = pearson(1e-38 * first, 1e-38 * second)
    assert tiny == pytest.approx(pearson(first, second))
    assert pearson(first, 3 * first + 1) == 1


def test_a_weight_below_0_has_no_mass() -> None:
    first = np.array([0.5, 0.5, -9.0])
    assert jaccard60(first, np.array([0.5, 0.5, 0.0])) == 1
    assert math.isnan(jaccard60(first, -first.clip(0)))


@pytest.mark.parametrize("name", AGREEMENTS)
def test_every_number_of_a_map_with_itself_is_1(name: str) -> None:
    values = np.random.default_rng(0).random(77)
    assert AGREEMENTS[name].load()(values, values) == 1
    assert AGREEMENTS[name].summary
    assert AGREEMENTS[name].reference


def test_two_to_twelve_sides_are_compared() -> None:
    for count in (2, MOST):
        check_count(count)
    with pytest.raises(UsageError, match="add --random-weights"):
        check_count(1)
    with pytest.raises(UsageError, match="13 sides are more than the 12"):
        check_count(13)
