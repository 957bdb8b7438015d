"""Several maps in one picture, against the formula at the middle of every cell."""

import json
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.drawing.blend import COLOURS
from attnviz.errors import UsageError
from attnviz.io.picture import with_pixels
from attnviz.output.write_pictures import Drawing, write_pictures


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> attnviz.Observation:
    path = pictures.save(pictures.noise(90, 60), tmp_path_factory.mktemp("p") / "noise.png")
    model = attnviz.load_model("tiny", head="class", size=64)
    return attnviz.observe(attnviz.load_image(path), model, layers="all", gradients=True)


@pytest.mark.parametrize("targets", [["0", "6"], ["0", "6", "2"]])
@pytest.mark.parametrize("method", ["relevance", "attnlrp"])
def test_colours_add_up_like_light(
    method: str, targets: list[str], seen: attnviz.Observation, tmp_path: Path
) -> None:
    found = attnviz.explain(seen, method=method, target=targets)
    drawing = Drawing(alpha=0.75, interpolation="nearest", blend=True)
    record, paths, _ = write_pictures(found, tmp_path, drawing)
    (blend,) = record.data()["blends"]
    assert blend["colours"] == list(COLOURS[len(targets)])
    assert tmp_path / blend["file"] in paths
    image = np.asarray(Image.open(tmp_path / blend["file"])).astype(np.float64)
    placement, maps = found.answers[0].placement, found.maps[:, 0, 0].astype(np.float64)
    for row, column in np.ndindex(*maps.shape[1:]):
        x, y = placement.to_picture((column + 0.5) * 8, (row + 0.5) * 8)
        light = np.zeros(3)
        for values, colour in zip(maps, blend["colours"], strict=True):
            low = max(values.min(), 0) if values.max() > 0 else values.min()
            share = np.clip((values[row, column] - low) / (values.max() - low), 0, 1)
            light += share * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        photo = with_pixels(found.observation.picture).pixels[int(y), int(x)]
        expected = 0.25 * photo + 0.75 * np.minimum(light, 255)
        np.testing.assert_allclose(image[int(y), int(x)], expected, atol=0.51)


def test_heads_have_their_own_and_a_later_run_removes_them(
    seen: attnviz.Observation, tmp_path: Path
) -> None:
    found = attnviz.explain(seen, query=["20,20", "70,40"], heads="2")
    write_pictures(found, tmp_path, Drawing(blend=True))
    names = {f"layer05-head0{head}-blend.png" for head in (0, 1)}
    assert names == {path.name for path in tmp_path.glob("*blend*")}
    (tmp_path / "my-blend.png").touch()
    write_pictures(found, tmp_path, Drawing())
    assert {path.name for path in tmp_path.glob("*blend*")} == {"my-blend.png"}
    assert "blends" not in json.loads((tmp_path / "stats.json").read_text())


def test_one_map_or_four_are_refused(seen: attnviz.Observation, tmp_path: Path) -> None:
    four = attnviz.explain(seen, method="relevance", target=["0", "1", "2", "3"])
    with pytest.raises(UsageError, match="two or three maps"):
        write_pictures(four, tmp_path, Drawing(blend=True))
    assert main(["show", seen.picture.path, "--blend"]) == 2
