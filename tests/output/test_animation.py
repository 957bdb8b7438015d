"""Layers and heads one after the other: how many frames, and what is on each."""

import json
import sys
from pathlib import Path

import numpy as np
import pictures
import pytest
from films import apart, read_film
from numpy.typing import NDArray
from PIL import Image

import attnviz
from attnviz.cli import main
from attnviz.drawing.panels import CELL
from attnviz.io.picture import with_pixels
from attnviz.output.write_animation import LARGE, animate
from attnviz.output.write_pictures import Drawing

Pixels = NDArray[np.uint8]


def shown(path: Path, *more: str, out: Path) -> Path:
    """Run `show` and return the picture's folder."""
    line = ["show", str(path), "--size", "48", "-o", str(out), "--quiet", *more]
    assert main(line) == 0
    return out / path.name


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    pictures.noise(120, 80).save(path)
    return path


def played(path: Path) -> list[Pixels]:
    with Image.open(path) as image:
        frames = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
        return frames


def overlays(frame: Image.Image | Pixels, columns: int, width: int, height: int) -> list[Pixels]:
    """The pictures on a frame, row by row, of that size each."""
    pixels = np.asarray(frame)
    step_x, step_y = width + 14, height + 2 * 19 + 8 + 14
    rows = (pixels.shape[0] - 19 - 14) // step_y
    return [
        pixels[top : top + height, left : left + width]
        for row in range(rows)
        for column in range(columns)
        for left, top in [(14 + column * step_x, 19 + 2 * 14 + row * step_y + 19)]
    ]


@pytest.fixture(scope="module")
def explanation() -> attnviz.Explanation:
    seen = attnviz.observe(
        attnviz.Picture("a.png", np.asarray(pictures.noise(CELL, 160))),
        attnviz.load_model(size=48),
    )
    return attnviz.explain(seen, layers="all")


def test_a_frame_of_a_layer_shows_its_heads_as_render_draws_them(
    explanation: attnviz.Explanation,
) -> None:
    drawing = Drawing()
    scales, style = drawing.ranges(explanation), drawing.style()
    frames = animate(explanation, "layers", scales, style)
    assert len(frames) == 6
    assert {frame.size for frame in frames} == {(3 * 270 + 14, 3 * (160 + 60) + 19 + 28)}
    expected = attnviz.render(explanation)
    for layer, frame in enumerate(frames):
        first, *maps = overlays(frame, 3, CELL, 160)
        assert np.array_equal(first, with_pixels(explanation.observation.picture).pixels)
        for head, pixels in enumerate(maps):
            assert np.array_equal(pixels, np.asarray(expected[layer, head]))


def test_a_frame_of_a_head_shows_its_map_large(explanation: attnviz.Explanation) -> None:
    drawing = Drawing(interpolation="nearest")
    frames = animate(explanation, "heads", drawing.ranges(explanation), drawing.style())
    assert len(frames) == 6 * 8
    assert {frame.size for frame in frames} == {(2 * (LARGE + 14) + 14, 320 + 60 + 19 + 28)}
    expected = attnviz.render(explanation, drawing)
    for number, frame in enumerate(frames):
        pixels = overlays(frame, 2, LARGE, 320)[1]
        assert np.array_equal(pixels[::2, ::2], np.asarray(expected[divmod(number, 8)]))


def test_places_rest_where_layers_differ_in_their_heads(
    explanation: attnviz.Explanation,
) -> None:
    few = [one for one in explanation.answers if one.layer != 2 or one.head in (0, 1)]
    fewer = type(explanation)(
        explanation.observation, explanation.questions, explanation.method, tuple(few)
    )
    drawing = Drawing()
    frames = animate(fewer, "layers", drawing.ranges(fewer), drawing.style())
    assert len({frame.size for frame in frames}) == 1
    *_, last = overlays(frames[2], 3, CELL, 160)
    assert (last == 255).all()


# From the command line


@pytest.mark.parametrize(
    ("movie", "name"),
    [(None, "layers.webp"), ("gif", "layers.gif"), ("apng", "layers.png"), ("mp4", "layers.mp4")],
)
def test_layers_are_all_layers_and_the_record_says_what_was_made(
    picture: Path, tmp_path: Path, movie: str | None, name: str
) -> None:
    more = [] if movie is None else ["--movie", movie]
    folder = shown(picture, "--animate", "layers", *more, "--fps", "4", out=tmp_path)
    record = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    assert record["animation"] == {"by": "layers", "frames": 6, "rate": 4, "file": name}
    path = folder / name
    frames = read_film(path).pictures if movie == "mp4" else played(path)
    assert len(frames) == 6
    model = attnviz.load_model(size=48)
    seen = attnviz.explain(attnviz.observe(attnviz.load_image(picture), model), layers="all")
    drawing = Drawing()
    expected = animate(seen, "layers", drawing.ranges(seen), drawing.style())
    for number in (0, 5):
        height, width = np.asarray(expected[number]).shape[:2]
        assert apart(frames[number][:height, :width], expected[number]) < 7


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        (["--animate", "heads"], 8),
        (["--animate", "heads", "--heads", "3", "--layers", "0,-1"], 6),
        (["--animate", "heads", "-q", "mean", "-q", "50,40"], 8),
        (["--animate", "layers", "--layers", "1-3"], 3),
        (["--animate", "layers", "--method", "rollout"], 6),
    ],
)
def test_there_is_a_frame_for_each(
    picture: Path, tmp_path: Path, options: list[str], frames: int
) -> None:
    folder = shown(picture, *options, out=tmp_path)
    assert len(played(folder / f"{options[1]}.webp")) == frames


def test_bars_say_one_scale_with_scale_all(picture: Path, tmp_path: Path) -> None:
    folder = shown(picture, "--animate", "heads", "--movie", "apng", "--scale", "all", out=tmp_path)
    frames = played(folder / "heads.png")
    below = [frame[-40:] for frame in frames]  # bar and its numbers
    assert all(np.array_equal(one, below[0]) for one in below)


def test_running_again_replaces_its_own_and_nothing_else(picture: Path, tmp_path: Path) -> None:
    folder = shown(picture, "--animate", "heads", out=tmp_path)
    (folder / "layers.gif").write_bytes(b"somebody's own")
    shown(picture, "--animate", "heads", "--movie", "gif", out=tmp_path)
    assert (folder / "heads.gif").exists()
    assert not (folder / "heads.webp").exists()
    shown(picture, out=tmp_path)
    assert not (folder / "heads.gif").exists()
    assert (folder / "layers.gif").read_bytes() == b"somebody's own"


@pytest.mark.parametrize("kind", ["sheet", "heads"])
def test_a_batch_makes_one_for_each_picture(picture: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    line = ["batch", str(picture), "--size", "48", "-o", str(out), "--quiet", "--pictures", kind]
    assert main([*line, "--animate", "layers"]) == 0
    path = out / "a.png" / "layers.webp"
    assert len(played(path)) == 6
    record = json.loads((out / "stats.jsonl").read_text(encoding="utf-8"))
    assert record["animation"]["file"] == "layers.webp"
    assert main(line) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["show", "a.png", "--movie", "gif"], "--movie needs a moving picture; add --animate"),
        (["show", "a.png", "--fps", "3"], "--fps needs a moving picture; add --animate"),
        (
            ["show", "a.png", "--animate", "heads", "--method", "rollout"],
            "rollout merges all heads",
        ),
        (
            ["batch", "a.png", "--animate", "heads", "--pictures", "none"],
            "--animate draws, and --pictures none does not",
        ),
        (["show", "a.png", "--animate", "tokens"], "tokens"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(
    line: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.noise(30, 20).save("a.png")
    assert main(line) == 2
    assert said in capsys.readouterr().err


def test_an_mp4_without_pyav_is_said_before_the_model_is_loaded(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("attnviz.cli.loading.load", lambda *_: pytest.fail("a model was loaded"))
    line = ["show", str(picture), "--animate", "layers", "--movie", "mp4", "-o", str(tmp_path)]
    assert main(line) == 1
    assert "pip install 'attnviz[video]'" in capsys.readouterr().err
