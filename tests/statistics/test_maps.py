import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.geometry.placement import place
from attnviz.statistics.maps import describe, smallest_count


@pytest.mark.parametrize(
    ("weights", "share", "expected"),
    [
        ([1 / 196] * 196, 0.6, 118),
        ([0.1] * 10, 0.6, 6),
        ([1.0, 0, 0, 0], 0.6, 1),
        ([0.5, 0.3, 0.2], 0.6, 2),
        ([0.2, 0.5, 0.3], 0.81, 3),
        ([0.0] * 5, 0.6, 1),
    ],
)
def test_smallest_set_that_holds_a_share(weights: list[float], share: float, expected: int) -> None:
    assert smallest_count(np.array(weights), share) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3))
def test_the_set_holds_the_share_and_no_smaller_one_does(weights: list[float]) -> None:
    values = np.array(weights)
    size = smallest_count(values, 0.6)
    top = np.sort(values)[::-1]
    assert top[:size].sum() >= (0.6 - 2e-6) * top.sum()
    assert top[: size - 1].sum() < 0.6 * top.sum()


def test_numbers_known_by_hand() -> None:
    placement = place(200, 100, size=141, patch=50)  # 2 rows of 4 tokens, 50 px each
    assert (placement.grid.rows, placement.grid.columns) == (2, 4)
    values = np.array([[0.0, 0.1, 0.1, 0.0], [0.0, 0.0, 0.2, 0.0]], dtype=np.float32)
    found = describe(values, np.ones((2, 4), dtype=bool), placement)
    assert (found.minimum, found.maximum) == pytest.approx((0, 0.2))
    assert (found.peak_x, found.peak_y) == (125, 75)
    assert found.entropy == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(4))
    assert found.area60 == 2 / 8


def test_tokens_that_are_not_drawn_count_nowhere() -> None:
    placement = place(200, 100, size=141, patch=50)
    values = np.full((2, 4), 0.1, dtype=np.float32)
    values[0, 0] = 0.9
    drawn = np.ones((2, 4), dtype=bool)
    drawn[0, 0] = False
    found = describe(values, drawn, placement)
    assert found.maximum == pytest.approx(0.1)
    assert (found.peak_x, found.peak_y) == (75, 25)
    assert found.entropy == pytest.approx(np.log(7))
    assert found.area60 == 5 / 7


def test_the_peak_of_a_token_that_padding_cuts_is_on_the_picture() -> None:
    placement = place(160, 100, size=160, patch=32, fit="pad")  # 30 px of padding above
    values = np.zeros((5, 5), dtype=np.float32)
    values[0, 2] = 1
    found = describe(values, np.ones((5, 5), dtype=bool), placement)
    assert (found.peak_x, found.peak_y) == (80, 1)
