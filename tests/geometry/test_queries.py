"""Queries as weights over tokens."""

import numpy as np
import pytest

from attnviz.errors import UsageError
from attnviz.geometry import queries
from attnviz.geometry.grid import Layout
from attnviz.geometry.placement import place

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
    layout, every = Layout.whole(placement.grid), np.ones((1, 53), dtype=bool)
    found = queries.token_weights(queries.Query("cls"), layout, placement, every)
    assert found[0, 0] == found.sum() == 1
    mean = queries.token_weights(queries.Query("mean"), layout, placement, every)
    assert mean[0, :5].sum() == 0
    assert mean[0, 5:] == pytest.approx(1 / 48)


def test_tokens_have_the_weight_of_their_cell_wherever_they_are() -> None:
    cells = np.random.default_rng(0).permutation(52).reshape(4, 13)
    layout = Layout(6, 8, np.where(cells < 48, cells, -1))
    part = np.random.default_rng(1).random((4, 13)) < 0.7
    for text in ("mean", "35,22", "5,0,60,50"):
        query = queries.parse(text)
        taken = np.zeros(48, dtype=bool)
        taken[layout.cells[part & (layout.cells >= 0)]] = True
        if text == "35,22":
            part |= layout.cells == 2 * 8 + 3
            taken[2 * 8 + 3] = True
        of_cells = queries.weights(query, PLACEMENT, taken)
        found = queries.token_weights(query, layout, PLACEMENT, part)
        for where, cell in np.ndenumerate(layout.cells):
            assert found[where] == (of_cells[cell] if cell >= 0 and part[where] else 0)


def test_several_tokens_of_a_cell_share_its_weight() -> None:
    twice = Layout(6, 8, np.concatenate([np.arange(48), np.arange(24)])[None])
    every = np.ones((1, 72), dtype=bool)
    found = queries.token_weights(queries.parse("mean"), twice, PLACEMENT, every)[0]
    assert found[24:48] == pytest.approx(1 / 48)
    assert found[:24] + found[48:] == pytest.approx(np.full(24, 1 / 48))


def test_the_pool_takes_all_of_its_queries_alike() -> None:
    layout, part = Layout(1, 1, np.full((1, 4), -1)), np.array([[True, False, True, True]])
    found = queries.token_weights(queries.parse("pool"), layout, None, part)
    assert found == pytest.approx(part / 3)


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


def test_what_auto_means_where_no_query_lies_on_the_picture() -> None:
    auto = queries.parse("auto")
    assert queries.resolve(auto, has_class_token=False, on_picture=False).kind == "pool"
    assert queries.resolve(auto, has_class_token=True, on_picture=False).kind == "cls"
    for text in ("mean", "5,5", "1,2,3,4", "m.png"):
        with pytest.raises(UsageError, match=r"layer 3 has no query on the picture.*--query auto"):
            queries.resolve(queries.parse(text), has_class_token=False, on_picture=False, layer=3)
    with pytest.raises(UsageError, match=r"layer 3 is no attention pool.*--query auto"):
        queries.resolve(queries.parse("pool"), has_class_token=False, layer=3)
    with pytest.raises(UsageError, match=r"layer 3 has no class token.*--layers"):
        queries.resolve(queries.parse("cls"), has_class_token=False, layer=3)


def test_a_point_in_the_part_that_was_cropped_is_refused() -> None:
    placement = place(80, 60, size=60, patch=10, fit="crop")
    with pytest.raises(UsageError, match="cropped"):
        queries.weights(queries.parse("2,30"), placement, np.ones(36, dtype=bool))
