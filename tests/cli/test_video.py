"""`attnviz video` as a program: what it prints, where the film goes, and what is wrong usage."""

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from films import make_clip, make_song, read_film

from attnviz.cli import main

SMALL = ["-m", "random", "--size", "32", "--heads", "2"]


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clip in the folder that the program is run in."""
    monkeypatch.chdir(tmp_path)
    return make_clip(Path("clip.mp4"), 4, sound="aac")


@pytest.mark.parametrize(
    ("out", "path"),
    [
        ([], "attnviz-out/clip.mp4"),
        (["-o", "film.mov"], "film.mov"),
        (["-o", "FILM.MKV"], "FILM.MKV"),
        (["-o", "new/film.mp4"], "new/film.mp4"),
        (["-o", "maps"], "maps/clip.mp4"),
        (["-o", "maps.v2"], "maps.v2/clip.mp4"),
    ],
)
def test_the_film_goes_where_it_is_asked_to(
    clip: Path, capsys: pytest.CaptureFixture[str], out: list[str], path: str
) -> None:
    assert main(["video", str(clip), *SMALL, "--quiet", *out]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{path}\n"
    assert len(read_film(Path(path)).pictures) == 4
    assert [one.name for one in Path(path).parent.iterdir() if one.name.startswith(".")] == []


def test_what_is_no_film_becomes_an_mp4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_clip(tmp_path / "a.gif", 3, codec="gif", pixels="rgb8")
    assert main(["video", str(source), *SMALL, "--quiet", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'a.mp4'}\n"


def test_json_is_a_record_a_frame(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(clip), *SMALL, "--json", "-o", "film.mp4"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["moment"]["frame"] for record in records] == [0, 1, 2, 3]
    assert {record["schema"] for record in records} == {"attnviz/1"}
    assert records[0]["image"] == {"path": "clip.mp4", "width": 64, "height": 48}
    assert records[1]["moment"] == {"frame": 1, "time": 0.04, "rate": 25}


def test_csv_is_a_row_a_head_of_every_frame(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(clip), *SMALL, "--csv", "-o", "film.mp4"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    places = [(row["frame"], row["time"], row["head"]) for row in rows]
    assert places[:3] == [("0", "0.0", "0"), ("0", "0.0", "1"), ("1", "0.04", "0")]
    assert len(rows) == 8


def test_the_table_has_the_means_over_the_frames(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["video", str(clip), *SMALL, "--json", "-o", "film.mp4"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    mean = sum(record["heads"][1]["entropy"] for record in records) / 4
    assert main(["video", str(clip), *SMALL, "-o", "film.mp4"]) == 0
    table = capsys.readouterr().out
    assert "mean of 4 frames" in table
    assert f"{mean:.4f}" in table


def test_sound_that_is_encoded_anew_is_said(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["video", str(clip), *SMALL, "--quiet", "-o", "film.webm"]) == 0
    assert "sound in aac was encoded anew, in opus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["clip.mp4", "-o", "film.gif"], 2, "film.gif: a film is .mp4, .mov, .mkv, .webm"),
        (["clip.mp4", "-o", "clip.mp4"], 2, "clip.mp4: is the clip itself"),
        (["clip.mp4", "-o", "./clip.mp4"], 2, "is the clip itself"),
        (["clip.mp4", "-o", "clip.mp4/film.mp4"], 1, "a file is where a folder must be"),
        (["clip.mp4", "--scale", "1:0"], 2, "--scale '1:0' cannot be read"),
        (["clip.mp4", "--colormap", "mud"], 2, "unknown colour map 'mud'"),
        (["clip.mp4", "-q", "900,5"], 2, "--query 900,5 lies outside the picture"),
        (["clip.mp4", "--mask", "none.png"], 1, "none.png: no such file"),
        (["gone.mp4"], 1, "gone.mp4: no such file; check the path"),
        (["song.mp4"], 1, "song.mp4: no moving picture in it"),
        (["text.mp4"], 1, "text.mp4: cannot be read as a clip"),
        (["."], 1, ".: no file; name a clip"),
        ([], 2, "CLIP"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    clip: Path, capsys: pytest.CaptureFixture[str], line: list[str], code: int, said: str
) -> None:
    make_song(Path("song.mp4"))
    Path("text.mp4").write_text("text")
    before, there = clip.read_bytes(), sorted(Path.cwd().iterdir())
    assert main(["video", *line, *([] if "-q" in line else SMALL)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = [each for each in captured.err.splitlines() if "note: " not in each]
    assert len(errors) == 1
    assert said in errors[0]
    assert clip.read_bytes() == before
    new = set(Path.cwd().iterdir()) - set(there)
    assert all(path.is_dir() and not list(path.iterdir()) for path in new)


def test_without_pyav_the_line_that_installs_it_is_printed_before_a_model_is_loaded(
    clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("attnviz.cli.loading.load", lambda *_: pytest.fail("a model was loaded"))
    assert main(["video", str(clip), *SMALL]) == 1
    assert "pip install 'attnviz[video]'" in capsys.readouterr().err


# Python does not answer Ctrl-C where it was started with it ignored, as in a shell's background.
CODE = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from attnviz.video import film

real, seen = film.Screen.draw, threading.Event()

def draw(*arguments):
    if not seen.is_set():
        seen.set()
        print("drawing", flush=True)
        sys.stdin.readline()  # until Ctrl-C was sent
    return real(*arguments)

film.Screen.draw = draw
from attnviz.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_leaves_no_half_film(clip: Path) -> None:
    line = [sys.executable, "-c", CODE, "video", str(clip), *SMALL, "-o", "film.mp4"]
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        try:
            assert run.stdout.readline() == "drawing\n"
            run.send_signal(signal.SIGINT)
            while "Ctrl-C again" not in (said := run.stderr.readline()):
                assert said, "it ended without a word"
            run.communicate("\n", timeout=60)
        finally:
            run.kill()
        assert run.returncode == 130
    assert [path.name for path in Path.cwd().iterdir()] == ["clip.mp4"]
