"""Sounds on the command line: pictures, records, folders, and one-line errors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import sounds
from PIL import Image
from sounds import tone

from attnviz.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sounds.ast(tmp_path_factory.mktemp("models") / "ast", "ASTModel"))


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two sounds and a picture."""
    monkeypatch.chdir(tmp_path)
    Path("sounds").mkdir()
    sounds.save(Path("sounds/tone.wav"), tone(0.5, 1000, seconds=0.9))
    two = np.stack([tone(0.4, 500, seconds=2), tone(0.4, 500, seconds=2)], 1)
    sounds.save(Path("sounds/long.wav"), two, 2 * sounds.RATE)
    Image.new("RGB", (40, 30)).save("cat.png")
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


def test_show_writes_pictures_and_a_record_with_seconds_and_hertz(run: Run, model: str) -> None:
    options = ("-m", model, "-q", "0.5s,1000Hz", "-o", "out")
    code, out, err = run("show", "sounds/tone.wav", *options)
    assert code == 0, err
    assert "peak s,Hz" in out
    assert "attention from 0.5s,1000Hz" in " ".join(out.split())
    record = json.loads(Path("out/tone.wav/stats.json").read_text())
    image, query = record["image"], record["query"]
    assert (image["width"], image["height"], image["duration"]) == (88, 128, 0.9)
    assert image["seconds"] == pytest.approx([0.0075, 0.8875], abs=1e-3)
    assert len(image["hertz"]) == 128
    assert (query["time"], query["frequency"]) == pytest.approx((0.5, 1000))
    assert record["tokens"]["fit"] == "pad"
    assert "preprocessing" not in record
    for head in record["heads"]:
        numbers = head["map"]
        assert numbers["peak_time"] == pytest.approx(
            image["seconds"][0] + 0.01 * numbers["peak_x"], abs=1e-6
        )
        rows = 128 - numbers["peak_y"] - 0.5
        expected = np.interp(rows, np.arange(128), image["hertz"])
        assert numbers["peak_frequency"] == pytest.approx(expected, abs=0.01)
        with Image.open(Path("out/tone.wav") / head["file"]) as overlay:
            assert overlay.size == (88, 128)
    assert "map_peak_time,map_peak_frequency" in Path("out/tone.wav/stats.csv").read_text()
    _, schema, _ = run("schema")
    jsonschema.validate(record, json.loads(schema))


def test_the_sheet_has_axes_in_seconds_and_hertz(run: Run, model: str) -> None:
    assert run("show", "sounds/tone.wav", "-m", model, "-o", "out", "--quiet")[0] == 0
    with Image.open("out/tone.wav/sheet.png") as opened:
        sheet = np.asarray(opened.convert("L")).astype(int)
    # The panel of the sound begins 34 pixels right of the margin; ticks stick out at its left.
    left, top = 14 + 34, 19 + 14 + 14 + 19
    ticks = np.flatnonzero(sheet[top : top + 256, left - 2] < 60)
    assert len(ticks) >= 4
    assert (np.diff(ticks) >= 18).all()
    below = sheet[top + 256 + 1, left : left + 176]
    assert (below < 60).sum() == 5  # 0, 0.2, 0.4, 0.6, 0.8 s


def test_batch_of_a_folder_of_sounds(run: Run, model: str) -> None:
    options = ("-m", model, "-o", "out", "--pictures", "heads", "--npz")
    code, _, err = run("batch", "sounds", *options)
    assert code == 0, err
    assert "2 done, 0 failed" in err
    assert "long.wav: its 2 channels are averaged; resampled from 32000 to 16000 Hz" in err
    records = [json.loads(line) for line in Path("out/stats.jsonl").read_text().splitlines()]
    assert [record["image"]["path"] for record in records] == [
        "sounds/long.wav", "sounds/tone.wav",
    ]  # fmt: skip
    alone = json.loads(run("stats", "sounds/tone.wav", "-m", model, "--json")[1])
    for found, expected in zip(records[1]["heads"], alone["heads"], strict=True):
        assert found["entropy"] == pytest.approx(expected["entropy"], abs=1e-5)
    with Image.open("out/tone.wav/layer01-head00.png") as overlay:
        assert overlay.size == (88, 128)
    # A picture beside them: then only pictures count.
    Image.new("RGB", (40, 30)).save("sounds/cat.png")
    code, _, err = run("batch", "sounds", "--pictures", "none", "-o", "pictures")
    assert (code, "1 done, 0 failed" in err, "2 other files" in err) == (0, True, True)


def test_a_sound_that_is_too_long_says_what_is_heard(run: Run, model: str) -> None:
    sounds.save(Path("long.wav"), tone(0.5, 800, seconds=3))
    code, out, err = run("stats", "long.wav", "-m", model, "--json")
    assert code == 0
    assert "note: long.wav: the model hears its first 1.287 s of 3 s; cut out the part" in err
    assert json.loads(out)["image"]["duration"] == 3


def test_other_commands_take_sounds(run: Run, model: str) -> None:
    masks = Path("masks")
    masks.mkdir()
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (128, 44))).save(masks / "tone.png")
    sound = ("sounds/tone.wav", "-m", model)
    assert run("explore", *sound, "-q", "0.5s,1000Hz", "-o", "page.html")[0] == 0
    code, out, _ = run("compare", *sound, "--random-weights", "-o", "out", "--json")
    sides = json.loads(out)["sides"]
    assert code == 0
    assert all(side["map"]["peak_time"] < 0.9 for side in sides)
    code, out, _ = run("evaluate", *sound, "--masks", "masks", "--json")
    assert code == 0
    assert {json.loads(line)["pictures"] for line in out.splitlines()} == {1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("show cat.png -m MODEL", "cat.png: no sound, and MODEL hears sounds; give a WAV, FLAC"),
        ("show sounds/tone.wav", "a sound, no picture; give a model of sounds, such as"),
        ("show sounds/tone.wav -m MODEL --region 0,0,9,9", "--region is of pictures; MODEL hears"),
        ("show sounds/tone.wav -m MODEL --range 0:1", "--range is of pictures; MODEL hears"),
        ("show sounds/tone.wav -m MODEL --fit pad", "--fit pad is of pictures; MODEL hears"),
        ("show sounds/tone.wav -m MODEL --tile 64", "--tile is of pictures; MODEL hears"),
        ("show sounds/tone.wav -m MODEL --mean half", "--mean is of pictures; MODEL hears"),
        ("show sounds/tone.wav -m MODEL -q 5s,100Hz", "--query 5s,100Hz lies outside of tone.wav"),
        ("show cat.png -q 1s,100Hz", "--query 1s,100Hz is a place in a sound, and cat.png a pict"),
        ("compare sounds/tone.wav -m MODEL -m tiny", "a sound, no picture; give a model of sounds"),
        ("show sounds/tone.wav -m MODEL --method relevance --text dog", "MODEL has no text tower"),
    ],
)
def test_errors_are_one_line(arguments: str, words: str, run: Run, model: str) -> None:
    code, _, err = run(*(model if each == "MODEL" else each for each in arguments.split()))
    errors = [line for line in err.splitlines() if "error:" in line]
    assert code in (1, 2)
    assert len(errors) == 1
    assert words.replace("MODEL", model) in errors[0]


def test_without_the_extra_the_line_names_it(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run("show", "sounds/tone.wav", "-m", model)
    assert code == 1
    assert "tone.wav: reading a sound needs an optional part: pip install 'attnviz[sound]'" in err
