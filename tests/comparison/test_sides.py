import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from numpy.typing import NDArray

import attnviz
from attnviz.comparison.sides import sides_of
from attnviz.io.picture import Picture

SIZE = (90, 60)


@pytest.fixture(scope="module")
def photo() -> Picture:
    return Picture("noise.png", np.asarray(pictures.noise(*SIZE)))


def seen(photo: Picture, *, fit: Any = "keep", **model: Any) -> attnviz.Observation:
    return attnviz.observe(
        photo,
        attnviz.load_model("random", **{"heads": 2, "size": 48, "patch": 8, **model}),
        fit=fit,
    )


def asked(photo: Picture, *, query: str = "auto", **model: Any) -> attnviz.Explanation:
    return attnviz.explain(seen(photo, **model), query=query)


def ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """½ + #{smaller} + ½·#{equal}."""
    column, row = values[:, None], values[None]
    return np.asarray(0.5 + (row < column).sum(1) + 0.5 * (row == column).sum(1))


def test_numbers_are_those_of_the_means_of_the_heads(photo: Picture) -> None:
    first, second = asked(photo), asked(photo, seed=1)
    both = attnviz.compare(first, second)
    a, b = (each.maps.astype(np.float64).mean((0, 1)).ravel() for each in (first, second))
    a, b = a.astype(np.float32), b.astype(np.float32)
    np.testing.assert_array_equal(both.maps.reshape(2, -1), [a, b])
    numbers = both.pairs[0, 1]
    assert numbers["pearson"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert numbers["spearman"] == pytest.approx(np.corrcoef(ranked(a), ranked(b))[0, 1])
    assert 0 < numbers["jaccard60"] < 1
    scaled = [(each - each.min()) / (each.max() - each.min()) for each in (a, b)]
    found = both.difference(1).ravel()
    np.testing.assert_allclose(found, scaled[1] - scaled[0], atol=1e-6)
    assert found.min() >= -1
    assert found.max() <= 1


def test_a_map_beside_itself_is_alike_in_every_number(photo: Picture) -> None:
    maps = asked(photo)
    both = attnviz.compare(maps, maps)
    assert both.pairs == {(0, 1): {"spearman": 1, "pearson": 1, "jaccard60": 1}}
    assert not both.difference(1).any()
    assert both.common(0, 1).all()


@pytest.mark.parametrize("fit", ["keep", "crop", "pad", "squash"])
def test_a_map_on_finer_cells_is_brought_onto_those_of_the_first(photo: Picture, fit: Any) -> None:
    """What attends to what is bright does so on any grid: maps are alike where both look."""
    first = asked(photo)
    both = attnviz.compare(first, asked(photo, patch=4, fit=fit))
    assert both.maps.shape[1:] == first.maps.shape[2:]
    assert both.sides[1].values.shape != first.maps.shape[2:]
    assert both.drawn[0].all()
    cells = both.sides[0].placement
    expected = cells.coverage(*both.sides[1].placement.source) > 0.5 - 1e-6
    np.testing.assert_array_equal(both.common(0, 1), expected)
    assert both.common(0, 1).all() == (fit != "crop")
    assert not both.difference(1)[~both.common(0, 1)].any()


def test_who_attends_to_the_bright_does_so_on_any_grid(tmp_path: Path) -> None:
    picture = Picture("square.png", np.asarray(pictures.bright_square(*SIZE, (30, 10, 60, 40))))
    sides = []
    for patch in (4, 8):
        weights = pictures.brightness_layer(tmp_path / f"{patch}.safetensors", patch=patch)
        sides.append(asked(picture, patch=patch, weights=str(weights)))
    alike = [attnviz.compare(*order).pairs[0, 1]["pearson"] for order in (sides, sides[::-1])]
    assert min(alike) > 0.7
    assert attnviz.compare(sides[0], asked(picture)).pairs[0, 1]["pearson"] < min(alike) - 0.1


def test_of_a_flat_map_no_number_is_defined_and_it_is_drawn_in_the_middle(
    photo: Picture, tmp_path: Path
) -> None:
    weights = str(pictures.uniform_layer(tmp_path / "flat.safetensors"))
    both = attnviz.compare(asked(photo, weights=weights), asked(photo))
    assert all(np.isnan(number) for number in both.pairs[0, 1].values())
    assert (both.difference(1).min(), both.difference(1).max()) == (-0.5, 0.5)
    assert both.matrix()[0, 0] == 1
    assert np.isnan(both.matrix()[0, 1])


def test_every_layer_and_question_is_a_side(photo: Picture) -> None:
    tiny = attnviz.observe(photo, attnviz.load_model(size=48), layers="all")
    queries = ["cls", "10,10", "mean"]
    maps = attnviz.explain(tiny, query=queries, layers="0,3", heads="0,2")
    sides = sides_of(maps)
    found = [(str(side.query), side.info.layer) for side in sides]
    assert found == [(query, layer) for query in queries for layer in (0, 3)]
    for side, (question, layer) in zip(sides, np.ndindex(3, 2), strict=True):
        np.testing.assert_allclose(side.values, maps.maps[question, layer].mean(0), rtol=1e-6)
        assert (side.info.head, side.info.heads) == ("mean", [0, 2])
    assert attnviz.compare(maps).matrix("pearson").shape == (6, 6)


def test_one_head_and_merged_heads_are_themselves(photo: Picture) -> None:
    tiny = attnviz.observe(photo, attnviz.load_model(size=48), layers="all")
    one = attnviz.explain(tiny, heads="3,")
    merged = attnviz.explain(tiny, method="rollout", start_layer=2)
    for maps, head in ((one, 3), (merged, None)):
        (side,) = sides_of(maps)
        assert (side.info.head, side.info.heads) == (head, None)
        np.testing.assert_array_equal(side.values, maps.maps[0, 0])
    assert sides_of(merged)[0].info.options == {"fusion": "mean", "discard": 0.0, "start_layer": 2}


def test_a_side_is_kept_without_its_model(photo: Picture) -> None:
    maps = asked(photo)
    module = weakref.ref(maps.observation.model.module)
    kept = sides_of(maps)
    del maps
    gc.collect()
    assert kept
    assert module() is None


def test_what_no_one_else_saw_is_nobodys(photo: Picture) -> None:
    """Masked in one side, a cell counts in none of its pairs."""
    part = np.ones(SIZE[::-1], dtype=bool)
    part[:, :30] = False
    model = attnviz.load_model("random", heads=2, size=48, patch=8)
    masked = attnviz.explain(attnviz.observe(photo, model, mask=part))
    three = attnviz.compare(asked(photo), masked, asked(photo, seed=1))
    assert three.common(0, 2).all()
    np.testing.assert_array_equal(three.common(0, 1), masked.answers[0].drawn)
    np.testing.assert_array_equal(three.common(1, 2), masked.answers[0].drawn)


def test_one_side_and_other_pictures_are_errors(photo: Picture) -> None:
    with pytest.raises(attnviz.AttnvizError, match="one side alone"):
        attnviz.compare(asked(photo))
    other = Picture("other.png", np.asarray(pictures.noise(60, 60)))
    with pytest.raises(attnviz.AttnvizError, match=r"noise\.png: the pictures are 90x60 and 60x60"):
        attnviz.compare(asked(photo), asked(other))
