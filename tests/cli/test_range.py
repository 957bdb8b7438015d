"""`--range`, and the notes of pictures, from files to stderr, records and drawings."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measured
import numpy as np
import pictures
import pytest
import tifffile
from PIL import Image

from attnviz.cli import main

Run = Callable[..., tuple[int, str, str]]
HEIGHT, WIDTH = 48, 64
SMALL = ("-m", "random", "--size", "32", "--patch", "8", "--heads", "2")


def xray(path: Path = Path("xray.png")) -> Path:
    """12 bits in a PNG of 16."""
    values = np.rint(measured.scene(HEIGHT, WIDTH) * 4095).astype(np.uint16)
    return measured.png16(path, values[..., None])


def ct(path: Path = Path("ct.tif")) -> Path:
    """Hounsfield units from air to bone."""
    values = measured.scene(HEIGHT, WIDTH) * 2500 - 1000
    return measured.tiff(path, np.rint(values).astype(np.int16))


def reflectance(path: Path = Path("reflectance.tif")) -> Path:
    """Three bands of a satellite, times 10 000."""
    bands = np.stack([measured.scene(HEIGHT, WIDTH) * share for share in (1, 0.8, 0.6)], axis=-1)
    return measured.tiff(path, np.rint(bands * 3060).astype(np.uint16))


def z_scored(path: Path = Path("z.tif")) -> Path:
    """Mean 0, deviation 1."""
    values = measured.scene(HEIGHT, WIDTH)
    return measured.tiff(path, ((values - values.mean()) / values.std()).astype(np.float32))


MADE = {"xray.png": xray, "ct.tif": ct, "reflectance.tif": reflectance, "z.tif": z_scored}
GIVEN = {
    "xray.png": "0:4095", "ct.tif": "-1000:1500", "reflectance.tif": "0:3060", "z.tif": "-2:3",
}  # fmt: skip


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture of each kind."""
    monkeypatch.chdir(tmp_path)
    for make in MADE.values():
        make()
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def runs(command: str, *arguments: str) -> tuple[int, str, str]:
        code = main([command, *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return runs


def seen(path: Path) -> np.ndarray[Any, Any]:
    """What an overlay without colour shows: the picture itself."""
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


def drawn(run: Run, name: str, *arguments: str) -> tuple[np.ndarray[Any, Any], dict[str, Any], str]:
    """The picture as it is drawn, its record, and what is said."""
    code, out, err = run("show", name, *SMALL, "--alpha", "0", "--json", *arguments)
    assert code == 0, err
    record = json.loads(out)
    return seen(Path("attnviz-out", name, record["heads"][0]["file"])), record, err


@pytest.mark.parametrize("name", MADE)
def test_a_measured_picture_is_drawn_over_the_range_that_is_given(run: Run, name: str) -> None:
    low, high = map(float, GIVEN[name].split(":"))
    pixels, record, err = drawn(run, name, "--range", GIVEN[name])
    assert record["image"]["range"] == [low, high]
    assert "use" not in err
    values = tifffile.imread(name) if name.endswith("tif") else np.asarray(Image.open(name))
    expected = measured.as_8_bit(values.reshape(HEIGHT, WIDTH, -1), low, high)
    assert np.array_equal(pixels, np.broadcast_to(expected, pixels.shape))
    assert 40 < pixels.mean() < 200


@pytest.mark.parametrize("name", MADE)
def test_percentiles_show_every_measured_picture(run: Run, name: str) -> None:
    pixels, record, err = drawn(run, name, "--range", "percentile")
    assert 40 < pixels.mean() < 200
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert record["image"]["range"][0] < record["image"]["range"][1]
    assert "random weights" in err or not err  # on a terminal only


@pytest.mark.parametrize(
    ("name", "note", "whole"),
    [
        ("xray.png", "values 0 … 4095 use 6 % of 0 … 65535; add --range 0:4095", [0, 65535]),
        ("ct.tif", "values -1000 … 1500 use 4 % of -32768 … 32767; add --range -1000:1500",
         [-32768, 32767]),
        ("reflectance.tif", "values 0 … 3060 use 5 % of 0 … 65535; add --range 0:3060",
         [0, 65535]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["show", "stats"])
def test_what_is_hardly_to_be_seen_is_told_with_the_line_to_type(
    run: Run, command: str, name: str, note: str, whole: list[float]
) -> None:
    code, out, err = run(command, name, *SMALL, "--json")
    assert code == 0
    assert err == f"attnviz: note: {name}: {note} or --range percentile\n"
    assert json.loads(out)["image"]["range"] == whole
    typed = note.partition("add --range ")[2]
    code, out, err = run(command, name, *SMALL, "--json", "--range", typed)
    assert (code, err) == (0, "")


def test_z_scores_are_not_black_and_told(run: Run) -> None:
    pixels, record, err = drawn(run, "z.tif")
    values = tifffile.imread("z.tif").astype(np.float64)
    low, high = values.min(), values.max()
    assert record["image"]["range"] == pytest.approx([low, high], rel=1e-6)
    assert np.array_equal(pixels[..., 0], measured.as_8_bit(values, low, high))
    assert 40 < pixels.mean() < 200
    assert err.startswith(f"attnviz: note: z.tif: floats of {low:.6g} … {high:.6g}, whose type")
    assert f"add --range {low:.6g}:{high:.6g} " in err


@pytest.mark.parametrize("typed", [("--range=-1000:400",), ("--range", "-1000:400")])
def test_negative_numbers_are_typed_either_way(run: Run, typed: tuple[str, ...]) -> None:
    code, out, _ = run("stats", "ct.tif", *SMALL, "--json", *typed)
    assert code == 0
    assert json.loads(out)["image"]["range"] == [-1000, 400]


@pytest.mark.parametrize("text", ["5:5", "a:b", "10:2"])
@pytest.mark.parametrize(
    "command", ["show", "stats", "batch", "explore", "compare", "evaluate --masks m"]
)
def test_a_slip_is_one_line_with_what_to_type(run: Run, command: str, text: str) -> None:
    name, *more = command.split()
    code, out, err = run(name, "ct.tif", *more, "--range", text)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "--range" in err.partition(";")[2] or "--range 0:4095" in err


def test_video_takes_no_range(run: Run) -> None:
    code, _, err = run("video", "clip.mp4", "--range", "0:1")
    assert code == 2
    assert "--range" in err


def test_the_record_of_an_ordinary_picture_is_as_it_was(run: Run) -> None:
    pictures.noise(64, 48).save("plain.png")
    code, out, err = run("stats", "plain.png", *SMALL, "--json")
    assert (code, err) == (0, "")
    assert list(json.loads(out)["image"]) == ["path", "width", "height"]
    _, ranged, _ = run("stats", "plain.png", *SMALL, "--json", "--range", "0:128")
    assert json.loads(ranged)["image"]["range"] == [0, 128]


def test_ordinary_pictures_take_a_range_too(run: Run) -> None:
    image = pictures.noise(64, 48)
    image.save("plain.png")
    pixels, _, _ = drawn(run, "plain.png", "--range", "20:180")
    assert np.array_equal(pixels, measured.as_8_bit(np.asarray(image), 20, 180))


def test_the_model_sees_what_is_drawn(run: Run) -> None:
    """The same numbers as of a picture that was made 8 bits by hand."""
    values = np.asarray(Image.open("xray.png"))
    grey = measured.as_8_bit(values, 0, 4095)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save("by-hand.png")
    _, first, _ = run("stats", "xray.png", *SMALL, "--json", "--range", "0:4095")
    _, second, _ = run("stats", "by-hand.png", *SMALL, "--json")
    assert json.loads(first)["heads"] == json.loads(second)["heads"]


def test_what_a_process_says_does_not_need_a_terminal() -> None:
    line = [sys.executable, "-m", "attnviz", "stats", "xray.png", *SMALL, "--csv"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("attnviz: note: xray.png: values 0 … 4095 use 6 %")


def test_bands_and_pages_are_told(run: Run) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (2, HEIGHT, WIDTH, 5)).astype(np.uint16)
    with tifffile.TiffWriter("five.tif") as writer:
        for page in values:
            writer.write(page, photometric="minisblack", planarconfig="contig", contiguous=False)
    code, _, err = run("stats", "five.tif", *SMALL, "--json")
    assert code == 0
    assert err.splitlines() == [
        "attnviz: note: five.tif: 5 bands: the first three are drawn",
        "attnviz: note: five.tif: 2 pages: the first is drawn",
    ]


# batch


def test_a_batch_says_each_kind_of_note_once_and_counts_the_others(run: Run) -> None:
    folder = Path("photos")
    folder.mkdir()
    for number in range(3):
        xray(folder / f"x{number}.png")
    z_scored(folder / "z.tif")
    pictures.noise(64, 48).save(folder / "plain.png")
    code, out, err = run("batch", "photos", *SMALL, "-o", "out", "--json")
    assert code == 0
    notes = [line for line in err.splitlines() if "note: " in line]
    assert sum("photos/x" in line and "use 6 % of" in line for line in notes) == 1
    assert sum("photos/z.tif: floats of" in line for line in notes) == 1
    assert sum(line.startswith("attnviz: note: of 3 pictures: their values use") for line in notes) == 1  # fmt: skip # noqa: E501
    assert len(notes) == 3
    ranges = {
        Path(record["image"]["path"]).name: record["image"].get("range")
        for record in map(json.loads, out.splitlines())
    }
    assert ranges["plain.png"] is None
    assert ranges["x0.png"] == [0, 65535]


@pytest.mark.parametrize("drawn", ["sheet", "heads", "none"])
def test_a_batch_draws_and_records_the_range(run: Run, drawn: str) -> None:
    code, out, _ = run(
        "batch", "ct.tif", *SMALL, "--json", "--range", "-1000:400", "--pictures", drawn
    )
    assert code == 0
    record = json.loads(out)
    assert record["image"]["range"] == [-1000, 400]
    _, shown, _ = run("stats", "ct.tif", *SMALL, "--json", "--range", "-1000:400")
    mine, theirs = (head["entropy"] for head in (record["heads"][0], json.loads(shown)["heads"][0]))
    assert mine == pytest.approx(theirs, rel=1e-5)
    if drawn == "heads":
        path = Path("attnviz-out/ct.tif", record["heads"][0]["file"])
        assert path.is_file()


def test_another_range_does_a_batch_again(run: Run) -> None:
    def records(*arguments: str) -> list[Any]:
        code, out, err = run("batch", "xray.png", *SMALL, "-o", "out", "--json", *arguments)
        assert code == 0
        assert ("1 before" in err) == (not out)
        kept = [json.loads(line) for line in Path("out/stats.jsonl").read_text().splitlines()]
        assert not out or [json.loads(out)] == kept
        return [bool(out), kept[0]["image"]["range"], kept[0]["heads"][0]["entropy"]]

    first = records()
    assert first[:2] == [True, [0, 65535]]
    assert records()[0] is False
    again = records("--range", "0:4095")
    assert again[:2] == [True, [0, 4095]]
    assert again[2] != first[2]
    assert records("--range", "0:4095")[0] is False
    assert records() == first


# The other commands


def test_evaluate_asks_again_of_another_range(run: Run) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[12:36, 20:44] = 255
    Image.fromarray(mask).save("mask.png")
    line = ("xray.png", "--masks", "mask.png", *SMALL, "-o", "scores", "--json")
    code, first, err = run("evaluate", *line)
    assert code == 0
    assert err.count("values 0 … 4095 use 6 % of") == 1
    code, second, err = run("evaluate", *line, "--range", "0:4095")
    assert (code, "use 6 %" in err) == (0, False)
    assert second != first


def test_a_16_bit_mask_is_white_and_black_whatever_the_range(run: Run) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    mask[:, :32] = 65535
    Image.fromarray(mask).save("mask.png")
    Image.fromarray((mask // 257).astype(np.uint8)).save("mask8.png")
    found = []
    for name in ("mask.png", "mask8.png"):
        code, out, err = run(
            "stats", "xray.png", *SMALL, "--range", "0:4095", "--mask", name, "--json"
        )
        assert (code, err) == (0, "")
        found.append(json.loads(out))
    assert found[0]["heads"] == found[1]["heads"]
    assert found[0]["tokens"]["masked"] > 0


def test_compare_says_a_note_once(run: Run) -> None:
    code, out, err = run(
        "compare", "xray.png", "-m", "random", "-m", "tiny", "--size", "32", "--json"
    )
    assert code == 0
    assert err.count("use 6 % of 0 … 65535") == 1
    assert json.loads(out)["image"]["range"] == [0, 65535]


def test_a_page_is_of_the_range(run: Run) -> None:
    """It holds what the model was shown: the same bytes as of a picture made 8 bits by hand."""
    grey = measured.as_8_bit(np.asarray(Image.open("xray.png")), 0, 4095)
    for folder in ("a", "b"):
        Path(folder).mkdir()
    xray(Path("a/x.png"))
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save("b/x.png")
    line = (*SMALL, "--json", "-o", "page.html")
    code, out, err = run("explore", "a/x.png", *line, "--range", "0:4095")
    assert (code, err) == (0, "")
    assert json.loads(out)["image"]["range"] == [0, 4095]
    ranged = Path("page.html").read_text(encoding="utf-8")
    assert run("explore", "b/x.png", *line)[0] == 0
    by_hand = Path("page.html").read_text(encoding="utf-8")
    assert ranged.replace(',"range":[0.0,4095.0]', "").replace(', "range": [0.0, 4095.0]', "") == by_hand  # fmt: skip # noqa: E501
    assert ranged != by_hand
