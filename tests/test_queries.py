"""Queries as weights over tokens."""

import numpy as np
import pytest

from attnviz import queries
from attnviz.errors import UsageError
from attnviz.geometry import place

PLACEMENT = place(80, 60, size=69, patch=10)  # 6 rows × 8 columns
EVERY = np.ones(48, dtype=bool)


def grid(text: str, part: np.ndarray = EVERY) -> np.ndarray:
    return queries.weights(queries.parse(text), PLACEMENT, part).reshape(6, 8)


def test_mean_takes_every_grid_token_alike() -> None:
    assert grid("mean") == pytest.approx(np.full((6, 8), 1 / 48))


@pytest.mark.parametrize(
    ("point", "token"), [("0,0", (0, 0)), ("9,9", (0, 0)), ("10,9", (0, 1)), ("79,59", (5, 7)),
                         ("79.9,59.9", (5, 7)), ("35,22", (2, 3))],
)  # fmt: skip
def test_a_point_takes_the_token_that_holds_its_pixel(point: str, token: tuple[int, int]) -> None:
    expected = np.zeros((6, 8))
    expected[token] = 1
    assert (grid(point) == expected).all()


def test_a_box_takes_tokens_by_the_share_that_it_covers() -> None:
    found = grid("5,0,20,10")
    assert found[0, :3] == pytest.approx([1 / 3, 2 / 3, 0])
    assert found.sum() == pytest.approx(1)


def test_a_box_inside_one_token_takes_that_token() -> None:
    assert grid("12,12,14,15")[1, 1] == 1


def test_a_mask_takes_tokens_by_their_share_of_its_white() -> None:
    mask = np.zeros((60, 80), dtype=bool)
    mask[0:10, 0:10] = True
    mask[0:5, 10:20] = True
    found = queries.weights(queries.Query("mask", path="m.png"), PLACEMENT, EVERY, mask)
    assert found[:3] == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_class_token_comes_first() -> None:
    placement = place(80, 60, size=69, patch=10, prefix=5)
    every = np.ones(53, dtype=bool)
    found = queries.weights(queries.Query("cls"), placement, every)
    assert found[0] == 1
    assert queries.weights(queries.Query("mean"), placement, every)[:5].sum() == 0


def test_masked_tokens_are_never_looked_from() -> None:
    part = EVERY.copy()
    part[:24] = False
    assert grid("mean", part)[:3].sum() == 0
    assert grid("mean", part).sum() == pytest.approx(1)
    with pytest.raises(UsageError, match="no token that takes part"):
        grid("5,5", part)


def test_what_auto_means() -> None:
    auto = queries.parse("auto")
    assert queries.resolve(auto, has_class_token=True).kind == "cls"
    assert queries.resolve(auto, has_class_token=False).kind == "mean"
    with pytest.raises(UsageError, match="no class token"):
        queries.resolve(queries.parse("cls"), has_class_token=False)


def test_a_point_in_the_part_that_was_cropped_is_refused() -> None:
    placement = place(80, 60, size=60, patch=10, fit="crop")
    with pytest.raises(UsageError, match="cropped"):
        queries.weights(queries.parse("2,30"), placement, np.ones(36, dtype=bool))
