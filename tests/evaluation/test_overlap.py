"""Maps made by hand, whose numbers are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.evaluation import objects as overlap

SIDE = 14
FIRST = 49  # the object: of 196 tokens the first quarter
TRUTH = np.arange(SIDE * SIDE) < FIRST
PERFECT = np.where(TRUTH, 1.0, 0.0) / FIRST
INVERSE = np.where(TRUTH, 0.0, 1.0) / (SIDE * SIDE - FIRST)
UNIFORM = np.full(SIDE * SIDE, 1 / (SIDE * SIDE))
# Half of the object and as many tokens beside it, alike.
HALF = np.zeros(SIDE * SIDE)
HALF[[*range(24), *range(FIRST, FIRST + 24)]] = 1 / 48
Weights = NDArray[np.float64]


@pytest.mark.parametrize(
    ("weights", "pointing", "auc"),
    [
        (PERFECT, 1, 1),
        (INVERSE, 0, 0),
        (UNIFORM, 0.25, 0.5),
        # Of 49·147 pairs, won: 24 against the 123 below; equal: 24·24 above and 25·123 below.
        (HALF, 0.5, (24 * 123 + (24 * 24 + 25 * 123) / 2) / (49 * 147)),
    ],
)
def test_pointing_and_auc(weights: Weights, pointing: float, auc: float) -> None:
    assert overlap.pointing(weights, TRUTH) == pytest.approx(pointing)
    assert overlap.auc(weights, TRUTH) == pytest.approx(auc)


@pytest.mark.parametrize(
    ("weights", "of_mass", "of_area"),
    [
        (PERFECT, 30 / 49, 1),  # 60 % of 49 equal weights are 30 of them
        (INVERSE, 0, 0),
        (UNIFORM, 49 / 118, 1),  # the first 118, then the first 49: the object is what comes first
        # 29 of 48: 24 inside, 5 outside. Of the area: those 48 and the first of the others.
        (HALF, 24 / (49 + 5), 25 / (49 + 24)),
    ],
)
def test_jaccard(weights: Weights, of_mass: float, of_area: float) -> None:
    assert overlap.jaccard60(weights, TRUTH[None]) == pytest.approx([of_mass])
    assert overlap.jaccard_area(weights, TRUTH) == pytest.approx(of_area)


def test_the_60_percent_mask_of_196_equal_weights_keeps_118() -> None:
    mask = overlap.mass_mask(UNIFORM.astype(np.float32).astype(np.float64))
    assert np.flatnonzero(mask).tolist() == list(range(118))


def test_a_mask_of_mass_does_not_depend_on_the_scale_of_the_weights() -> None:
    weights = np.random.default_rng(0).random(50)
    np.testing.assert_array_equal(overlap.mass_mask(weights), overlap.mass_mask(7 * weights))


def test_weights_below_0_have_no_mass() -> None:
    mask = overlap.mass_mask(np.array([0.5, 0.5, -5.0, -0.1]))
    assert mask.tolist() == [True, True, False, False]


def test_each_object_has_its_own_jaccard_index() -> None:
    objects = np.array([[1, 0, 0, 0], [0, 1, 1, 0]], dtype=np.bool_)
    weights = np.array([0.5, 0.3, 0.1, 0.1])  # 60 %: the first two
    assert overlap.jaccard60(weights, objects) == pytest.approx([1 / 2, 1 / 3])


@pytest.mark.parametrize("truth", [np.zeros(4, np.bool_), np.ones(4, np.bool_)])
def test_auc_is_not_defined_without_both_kinds(truth: NDArray[np.bool_]) -> None:
    assert np.isnan(overlap.auc(np.arange(4.0), truth))


TOKENS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40)


@given(TOKENS)
def test_auc_is_the_share_of_pairs_that_are_told_apart(tokens: list[tuple[int, bool]]) -> None:
    inside = [weight for weight, of_object in tokens if of_object]
    outside = [weight for weight, of_object in tokens if not of_object]
    weights = np.array([float(weight) for weight, _ in tokens])
    found = overlap.auc(weights, np.array([of_object for _, of_object in tokens]))
    pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(inside, outside)]
    assert found == pytest.approx(sum(pairs) / len(pairs) if pairs else np.nan, nan_ok=True)


@given(TOKENS)
def test_the_mask_of_mass_is_the_smallest(tokens: list[tuple[int, bool]]) -> None:
    weights = np.array([float(weight) for weight, _ in tokens])
    mask = overlap.mass_mask(weights)
    total = weights.sum()
    assert weights[mask].sum() >= 0.6 * total * (1 - 1e-5)
    if total > 0 and mask.sum() > 1:
        assert np.sort(weights)[::-1][: mask.sum() - 1].sum() < 0.6 * total
