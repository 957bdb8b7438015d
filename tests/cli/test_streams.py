import csv
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main

ESCAPE = "\x1b"
HALF_BLOCKS = set("▀▄")
COLOUR = re.compile(r"\x1b\[(\d+;)*([349]\d|10\d)(;\d+)*m")
SMALL = ["--model", "random", "--size", "32", "--heads", "2"]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two small pictures."""
    monkeypatch.chdir(tmp_path)
    put_pictures(tmp_path)
    return tmp_path


def put_pictures(folder: Path) -> None:
    stream = np.random.default_rng(0)
    for name in ("one.png", "two.png"):
        pixels = stream.integers(0, 256, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """Stdout and stderr of a run in this process that succeeds."""
    code = main(arguments)
    out, err = capfd.readouterr()
    assert code == 0, err
    return out, err


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# What goes to stdout


@pytest.mark.parametrize("command", ["show", "stats"])
def test_json_is_one_line_a_picture_and_nothing_else(
    capfd: pytest.CaptureFixture[str], command: str
) -> None:
    out, _ = run(capfd, command, "one.png", "two.png", *SMALL, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["image"]["path"] for record in records] == ["one.png", "two.png"]
    assert all(record["schema"] == "attnviz/1" for record in records)
    assert all(len(record["heads"]) == 2 for record in records)
    assert out.endswith("}\n")


def test_json_is_the_record_that_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "show", "one.png", *SMALL, "--json")
    written = Path("attnviz-out/one.png/stats.json").read_text(encoding="utf-8")
    assert json.loads(out) == json.loads(written)


def test_csv_is_one_header_and_a_row_a_head(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "show", "one.png", "two.png", *SMALL, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    where = [(row["image"], row["layer"], row["head"]) for row in rows]
    expected = [("one.png", "0", "0"), ("one.png", "0", "1")]
    assert where == [*expected, ("two.png", "0", "0"), ("two.png", "0", "1")]
    assert {"map_peak_x", "map_peak_y", "map_area60", "entropy", "file"} <= set(rows[0])
    assert len(out.splitlines()) == 5


def test_csv_is_the_table_that_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "show", "one.png", *SMALL, "--csv")
    assert out == Path("attnviz-out/one.png/stats.csv").read_text(encoding="utf-8")


def test_csv_has_the_numbers_of_json(capfd: pytest.CaptureFixture[str]) -> None:
    table, _ = run(capfd, "stats", "one.png", *SMALL, "--csv")
    record, _ = run(capfd, "stats", "one.png", *SMALL, "--json")
    for row, head in zip(
        csv.DictReader(io.StringIO(table)), json.loads(record)["heads"], strict=True
    ):
        assert float(row["entropy"]) == head["entropy"]
        assert float(row["map_peak_x"]) == head["map"]["peak_x"]


def test_quiet_prints_only_paths_of_files_that_are_there(
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, err = run(capfd, "show", "one.png", "two.png", *SMALL, "--quiet", "--npz", "-o", "o")
    assert err == ""
    assert sorted(out.splitlines()) == sorted(f"o/{name}" for name in contents(Path("o")))
    assert len(out.splitlines()) == 12


def test_quiet_stats_prints_the_files_it_writes(capfd: pytest.CaptureFixture[str]) -> None:
    out, err = run(capfd, "stats", "one.png", *SMALL, "--quiet", "--npz", "-o", "o")
    files = [f"o/one.png/{name}" for name in ("stats.json", "stats.csv", "maps.npz")]
    assert (out.splitlines(), err) == (files, "")


def test_stats_writes_no_file_unless_asked(capfd: pytest.CaptureFixture[str], desk: Path) -> None:
    _, err = run(capfd, "stats", "one.png", *SMALL)
    assert err == ""
    assert sorted(path.name for path in desk.iterdir()) == ["one.png", "two.png"]


def test_a_dash_reads_standard_input(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("one.png").open(encoding="latin-1") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        out, err = run(capfd, "show", "-", "two.png", *SMALL, "--json")
    assert json.loads(out.splitlines()[0])["image"]["path"] == "-"
    assert err == ""
    assert Path("attnviz-out/stdin/sheet.png").is_file()


# What does not


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"], ["--quiet"]])
def test_nothing_is_coloured_or_drawn_outside_a_terminal(
    capfd: pytest.CaptureFixture[str], form: list[str]
) -> None:
    out, err = run(capfd, "show", "one.png", *SMALL, *form)
    assert ESCAPE not in out + err
    assert "\r" not in out + err
    assert not HALF_BLOCKS & set(out)


def test_a_file_name_cannot_steer_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    Path("one.png").rename("a\x1b[31m.png")
    out, err = run(capfd, "show", "a\x1b[31m.png", *SMALL)
    assert ESCAPE not in out + err


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"], ["--quiet"]])
def test_a_run_in_which_all_goes_well_leaves_stderr_empty(
    capfd: pytest.CaptureFixture[str], form: list[str]
) -> None:
    out, err = run(capfd, "show", "one.png", *SMALL, *form)
    assert err == ""
    assert "wrote" not in out


# Again


def test_running_again_gives_the_same_bytes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a process of its own, with other hashes."""
    line = ["show", "one.png", "two.png", *SMALL, "--json", "--npz", "-o"]
    first, _ = run(capfd, *line, "a")
    second, _ = run(capfd, *line, "a")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    apart = subprocess.run(
        [sys.executable, "-m", "attnviz", *line, "b"], capture_output=True, text=True, check=True
    )
    assert first == second == apart.stdout
    assert contents(Path("a")) == contents(Path("b"))


def test_running_again_replaces_its_own_files_and_nothing_else(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(capfd, "show", "one.png", "--model", "random", "--size", "32", "--heads", "8", "-o", "o")
    folder = Path("o/one.png")
    (folder / "notes.txt").write_text("mine")
    (folder / "layer07-head00.png").write_text("mine, by its name one of theirs")
    run(capfd, "show", "one.png", "--model", "random", "--size", "32", "--heads", "2", "-o", "o")
    ours = {"layer00-head00.png", "layer00-head01.png", "sheet.png", "stats.json", "stats.csv"}
    assert set(contents(folder)) == ours | {"notes.txt", "layer07-head00.png"}
    assert (folder / "notes.txt").read_text() == "mine"


def test_another_format_replaces_the_earlier_pictures(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "show", "one.png", *SMALL, "-o", "o")
    run(capfd, "show", "one.png", *SMALL, "-o", "o", "--format", "webp")
    pictures = ["layer00-head00.webp", "layer00-head01.webp", "sheet.webp"]
    assert sorted(contents(Path("o/one.png"))) == [*pictures, "stats.csv", "stats.json"]


def test_a_run_that_fails_leaves_the_earlier_files(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "show", "one.png", *SMALL, "-o", "o")
    before = contents(Path("o"))
    assert main(["show", "one.png", *SMALL, "-o", "o", "--query", "99,99"]) == 2
    assert contents(Path("o")) == before


# A reader that leaves


@pytest.mark.parametrize(
    "arguments",
    [["models"], ["--help"], ["methods", "--json"], ["stats", "one.png", "two.png", *SMALL]],
)
def test_a_reader_that_leaves_gets_no_traceback(arguments: list[str]) -> None:
    """The reading end of stdout is closed before anything is written, as by `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "attnviz", *arguments]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


# On a terminal

TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": "80", "LINES": "24"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a terminal of 80 × 24 that shows all colours."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def on_terminal(monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
    """What `show` puts on stdout when that is a terminal."""
    ours, theirs = pty.openpty()
    with ThreadPoolExecutor() as pool:
        arriving = pool.submit(read_all, ours, seconds=60)
        with Path(f"/dev/fd/{theirs}").open("w", encoding="utf-8") as stdout:
            os.close(theirs)
            monkeypatch.setattr(sys, "stdout", stdout)
            assert main(["show", "one.png", *SMALL, *options]) == 0
    os.close(ours)
    return arriving.result().decode("utf-8")


def read_all(terminal: int, *, seconds: float) -> bytes:
    """What is written to a terminal until its last writer is gone."""
    data, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            return data
        if not part:
            return data
        data += part
    raise TimeoutError("the terminal is still written to")


def lines(screen: str) -> list[str]:
    """As they are seen, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()


@pytest.mark.usefixtures("terminal")
def test_a_real_terminal_shows_progress_the_sheet_and_the_table() -> None:
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "attnviz", "show", "one.png", *SMALL]
    with subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        screen = read_all(ours, seconds=120).decode("utf-8")
    os.close(ours)
    assert process.returncode == 0
    assert HALF_BLOCKS & set(screen)
    assert "attnviz: wrote 5 files to attnviz-out/one.png" in lines(screen)


def test_a_terminal_shows_the_sheet_in_coloured_half_blocks(terminal: pytest.MonkeyPatch) -> None:
    screen = on_terminal(terminal)
    drawn = [line for line in lines(screen) if HALF_BLOCKS & set(line)]
    assert 4 <= len(drawn) <= 24
    assert max(len(line) for line in drawn) <= 80
    assert COLOUR.search(screen)
    assert "entropy" in screen


def test_no_preview_shows_the_table_alone(terminal: pytest.MonkeyPatch) -> None:
    screen = on_terminal(terminal, "--no-preview")
    assert not HALF_BLOCKS & set(screen)
    assert COLOUR.search(screen)
    assert "entropy" in screen


def test_colours_that_are_forced_still_keep_out_of_pipes(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    run(capfd, "show", "one.png", "--model", "random", "--size", "32", "-o", "o")
    assert main(["stats", "one.png", "--model", "random", "--size", "32"]) == 0
    assert "\x1b" not in capfd.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_full_disk_behind_stdout_is_told_in_a_line() -> None:
    command = [
        sys.executable,
        "-m",
        "attnviz",
        "stats",
        "one.png",
        "--model",
        "random",
        "--size",
        "32",
        "--json",
    ]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("attnviz: error: ")
    assert "standard output cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_encoding_without_the_marks_of_the_table_is_no_fault() -> None:
    command = [
        sys.executable,
        "-m",
        "attnviz",
        "stats",
        "one.png",
        "--model",
        "random",
        "--size",
        "32",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_without_colours_gets_none(
    terminal: pytest.MonkeyPatch, setting: tuple[str, str]
) -> None:
    terminal.setenv(*setting)
    screen = on_terminal(terminal)
    assert not COLOUR.search(screen)
    assert not HALF_BLOCKS & set(screen)
    assert "entropy" in screen


def test_json_on_a_terminal_is_json_alone(terminal: pytest.MonkeyPatch) -> None:
    (line,) = on_terminal(terminal, "--json").splitlines()
    assert json.loads(line)["image"]["path"] == "one.png"
