"""`show` and `stats` of pictures that are read tile by tile."""

import json
from pathlib import Path

import numpy as np
import pictures
import pytest
import tifffile
from PIL import Image

from attnviz.cli import main
from attnviz.io import picture_tiles


def run(*arguments: str) -> int:
    return int(main(list(arguments)))


@pytest.mark.parametrize("ending", ["tif", "svs", "png"])
def test_a_square_is_found_at_its_place(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (610, 230, 690, 310)
    image = pictures.bright_square(1000, 640, box)
    path = tmp_path / f"square.{ending}"
    if ending == "png":
        image.save(path)
    else:
        tifffile.imwrite(path, np.asarray(image), tile=(128, 128), photometric="rgb")
    layer = pictures.brightness_layer(tmp_path / "bright.safetensors")
    monkeypatch.setattr(picture_tiles.TiledPicture.reduced, "__defaults__", (500,))
    options = ["-m", "random", "--heads", "2", "--weights", str(layer), "--tile", "224", "--quiet"]
    look = ["--alpha", "1", "--colormap", "gray", "--interpolation", "nearest", "--npz"]
    out = tmp_path / "out"
    assert run("show", str(path), *options, *look, "-o", str(out)) == 0
    folder = out / path.name
    record = json.loads((folder / "stats.json").read_text())
    assert record["tiles"] == {"side": 224, "overlap": 0.25, "rows": 4, "columns": 6}
    assert (record["image"]["width"], record["image"]["height"]) == (1000, 640)
    tokens = record["tokens"]
    assert (tokens["rows"], tokens["columns"], tokens["patch"]) == (40, 63, 16)
    assert (tokens["input_width"], tokens["input_height"]) == (224, 224)
    for head in record["heads"]:
        assert box[0] <= head["map"]["peak_x"] <= box[2]
        assert box[1] <= head["map"]["peak_y"] <= box[3]
        with Image.open(folder / head["file"]) as overlay:
            assert overlay.size == (500, 320)  # each pixel is the mean of two by two
            y, x = np.nonzero(np.asarray(overlay.convert("L")) > 127)
        hot = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) * 2
        assert np.abs(hot - box).max() <= 16
    assert np.load(folder / "maps.npz")["maps"].shape == (1, 2, 40, 63)


def test_a_region_is_tiled_and_its_numbers_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(500, 400).save(tmp_path / "a.png")
    pictures.noise(500, 400).crop((50, 30, 350, 330)).save(tmp_path / "b.png")
    numbers = []
    for name, part in (("a.png", ["--region", "50,30,300,300"]), ("b.png", [])):
        assert run("stats", str(tmp_path / name), "--tile", "144", "--json", *part) == 0
        numbers.append(json.loads(capsys.readouterr().out))
    assert numbers[0]["heads"] == numbers[1]["heads"]
    assert numbers[0]["image"]["region"] == [50, 30, 300, 300]
    assert run("stats", str(tmp_path / "b.png"), "--tile", "144", "--overlap", "0.5") == 0
    assert "tiles of 144 pixels" in capsys.readouterr().out


def test_tiles_can_be_animated(tmp_path: Path) -> None:
    pictures.noise(200, 150).save(tmp_path / "a.png")
    arguments = ["--tile", "144", "--animate", "heads", "--heads", "2", "-o", str(tmp_path / "out")]
    assert run("show", str(tmp_path / "a.png"), *arguments) == 0
    assert (tmp_path / "out" / "a.png" / "heads.webp").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--overlap", "0.5"], "add --tile"),
        (["--tile", "8"], "16"),
        (["--tile", "224", "--overlap", "1"], "0.9"),
        (["--tile", "224", "--query", "3,4"], "--region"),
        (["--tile", "224", "--query", "mask.png"], "--region"),
        (["--tile", "224", "--heads", "localized"], "--tile"),
        (["--tile", "224", "--stats", "all"], "--stats all"),
        (["--tile", "224", "--mask", "mask.png"], "--mask"),
        (["--tile", "224", "--method", "gradient-attention"], "--target norm"),
    ],
)
def test_what_tiles_cannot_answer_is_refused_in_one_line(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("show", "stats", "batch"):
        assert run(command, "cat.jpg", *options) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["explore", "compare", "evaluate"])
def test_other_commands_have_no_tiles(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "cat.jpg", "--tile", "224") == 2
    error = capsys.readouterr().err
    assert "--tile" in error
    assert len(error.strip().splitlines()) == 1


def test_tiles_of_different_ranges_are_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.linspace(-3, 900, 256 * 256, dtype=np.float32).reshape(256, 256)
    tifffile.imwrite(tmp_path / "a.tif", values)
    assert run("stats", str(tmp_path / "a.tif"), "--tile", "144") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in error
    assert "--range LO:HI" in error
    assert run("stats", str(tmp_path / "a.tif"), "--tile", "144", "--range", "-3:900") == 0


def test_holes_between_tiles_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.noise(500, 100).save(tmp_path / "wide.png")
    tiles = [str(tmp_path / "wide.png"), "--tile", "224", "--heads", "1", "-m", "random"]
    for fit, told in (("crop", True), ("pad", False), ("keep", False)):
        assert run("stats", *tiles, "--fit", fit) == 0
        assert ("part of the picture has no map" in capsys.readouterr().err) == told
