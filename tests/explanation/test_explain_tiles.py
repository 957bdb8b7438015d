"""Maps of all tiles are joined to one explanation, and memory holds few tiles."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pictures
import pytest
import tifffile
from numpy.typing import NDArray

import attnviz
from attnviz.errors import UsageError
from attnviz.explanation.explain_tiles import explain_tiles
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.request import Questions
from attnviz.geometry.tiling import JoinedMaps
from attnviz.io.parts import Part
from attnviz.io.picture import Picture
from attnviz.io.picture_tiles import open_tiled
from attnviz.models.model import Model
from attnviz.models.targets import parse


@pytest.fixture(scope="module")
def tiny() -> Model:
    return attnviz.load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tiles") / "noise.png"
    pictures.noise(400, 300).save(found)
    return found


def tiled(
    path: Path, model: Model, questions: Questions, side: int = 144, overlap: float = 0.25
) -> list[Explanation]:
    with open_tiled(path, "full", Part(), side, overlap) as picture:
        return explain_tiles(picture, model, questions)


def by_hand(whole: Explanation, path: Path, model: Model) -> list[Explanation]:
    """The explanations of all tiles, each cut out and observed on its own."""
    pixels = attnviz.load_image(path).pixels
    assert whole.tiles is not None
    return [
        attnviz.explain(
            attnviz.observe(Picture("tile", pixels[y : y + h, x : x + w]), model),
            method=whole.method,
            layers="3,5",
        )
        for x, y, w, h in whole.tiles.boxes()
    ]


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_maps_are_joined_and_numbers_are_means(method: str, path: Path, tiny: Model) -> None:
    (whole,) = tiled(path, tiny, Questions(methods=(method,), layers="3,5"))
    tiles = by_hand(whole, path, tiny)
    assert whole.tiles is not None
    assert len(tiles) == whole.tiles.count == 4 * 3
    for number, answer in enumerate(whole.answers):
        parts = [tile.answers[number] for tile in tiles]
        joined = JoinedMaps(whole.tiles, parts[0].placement, 1)
        for (x, y, *_), part in zip(whole.tiles.boxes(), parts, strict=True):
            joined.add(x, y, part.values[None], part.drawn, part.placement)
        expected, drawn = joined.result()
        np.testing.assert_allclose(answer.values, expected[0], rtol=1e-4, atol=1e-7)
        np.testing.assert_array_equal(answer.drawn, drawn)
        for name, value in answer.numbers.items():
            mean = np.mean([part.numbers[name] for part in parts])
            assert value == pytest.approx(mean, rel=1e-4)
    picture = whole.observation.picture
    assert (picture.width, picture.height) == (400, 300)


def test_several_methods_and_queries_share_the_tiles(path: Path, tiny: Model) -> None:
    asked = Questions(methods=("attention", "received"), queries=("cls", "mean"))
    attention, received = tiled(path, tiny, asked)
    assert attention.maps.shape[:3] == (2, 1, 8)
    (alone,) = tiled(path, tiny, Questions(queries=("mean",)))
    np.testing.assert_allclose(attention.maps[1], alone.maps, rtol=1e-5)
    assert received.maps.shape[:2] == (1, 8)


def test_a_named_score_is_that_of_every_tile(path: Path, tiny: Model) -> None:
    questions = Questions(methods=("gradient-attention",), targets=(parse("norm"),))
    (whole,) = tiled(path, tiny, questions)
    pixels = attnviz.load_image(path).pixels
    assert whole.tiles is not None
    values = []
    for x, y, w, h in whole.tiles.boxes():
        tile = Picture("tile", pixels[y : y + h, x : x + w])
        seen = attnviz.observe(tile, tiny, gradients=True)
        target = attnviz.explain(seen, method="gradient-attention", target="norm").questions[0]
        assert target.target is not None
        values.append(float(target.target.value))
    found = whole.questions[0].target
    assert found is not None
    assert float(found.value) == pytest.approx(np.mean(values), rel=1e-4)


def test_a_picture_smaller_than_a_tile_is_shown_whole(path: Path, tiny: Model) -> None:
    (one,) = tiled(path, tiny, Questions(), side=512)
    whole = attnviz.explain(attnviz.observe(attnviz.load_image(path), tiny))
    np.testing.assert_allclose(one.maps, whole.maps, rtol=1e-5, atol=1e-8)
    assert one.answers[0].placement == whole.answers[0].placement


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        (Questions(queries=("20,30",)), "--region"),
        (Questions(queries=("0,0,20,30",)), "--region"),
        (Questions(heads="localized"), "localized"),
        (Questions(statistics="all"), "--stats all"),
        (Questions(methods=("gradient-attention",)), "--target norm"),
    ],
)
def test_questions_about_one_place_or_input_are_refused(
    questions: Questions, words: str, path: Path, tiny: Model
) -> None:
    with pytest.raises(UsageError, match=words):
        tiled(path, tiny, questions)


def huge(path: Path, bright: tuple[int, int]) -> None:
    """A TIFF of 20 000 × 20 000 pixels: empty but for one bright tile of 1024 pixels."""

    def tiles() -> Iterator[NDArray[np.uint8] | None]:
        yield np.zeros((1024, 1024, 3), np.uint8)  # the first must be there
        for number in range(1, 20 * 20):
            white = number == bright[1] * 20 + bright[0]
            yield np.full((1024, 1024, 3), 250, np.uint8) if white else None

    tifffile.imwrite(
        path, tiles(), shape=(20_000, 20_000, 3), dtype="u1", tile=(1024, 1024),
        compression="zlib", photometric="rgb",
    )  # fmt: skip


def test_a_huge_picture_takes_little_memory_and_its_square_is_found(tmp_path: Path) -> None:
    huge(tmp_path / "huge.tif", (13, 4))
    layer = pictures.brightness_layer(tmp_path / "bright.safetensors")
    model = attnviz.load_model("random", heads=2, weights=str(layer), device="cpu")
    tracemalloc.start()
    with open_tiled(tmp_path / "huge.tif", "full", Part(), 3360, 0.0) as picture:
        (found,) = explain_tiles(picture, model, Questions(heads="1"))
        reduced = picture.reduced(1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200e6  # the picture has 1.2 GB
    answer = found.answers[0]
    row, column = np.unravel_index(int(answer.values.argmax()), answer.values.shape)
    x, y = answer.placement.visible_centre(int(row), int(column))
    assert 13 * 1024 <= x <= 14 * 1024
    assert 4 * 1024 <= y <= 5 * 1024
    light = np.argwhere(reduced.pixels[..., 0] > 128).mean(0)
    np.testing.assert_allclose(light, [4.5 * 51.2, 13.5 * 51.2], atol=2)
