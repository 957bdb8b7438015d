"""`attnviz batch`, from folders to files."""

import csv
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import batches
import numpy as np
import pictures
import pytest
from PIL import Image

from attnviz.batch import work
from attnviz.batch.gallery import thumbnail_name, write_gallery
from attnviz.cli import main
from attnviz.errors import ExitCode, OutputError, UsageError
from attnviz.output import whole_files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tree of pictures."""
    monkeypatch.chdir(tmp_path)
    batches.photos(Path("photos"), 12)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def runs(*arguments: str) -> tuple[int, str, str]:
        code = main(["batch", *batches.SMALL, *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return runs


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that are drawn from now on."""
    found: list[str] = []
    real = work.finish

    def finish(answered: Any, *rest: Any) -> Any:
        found.append(answered.prepared.entry.path)
        return real(answered, *rest)

    monkeypatch.setattr(work, "finish", finish)
    return found


def shown(path: str, *arguments: str) -> dict[str, Any]:
    """The record of `show`."""
    assert main(["show", path, *batches.SMALL, "-o", "shown", "--quiet", *arguments]) == 0
    record: dict[str, Any] = json.loads(Path("shown", Path(path).name, "stats.json").read_text())
    return record


def near(mine: Any, theirs: Any) -> None:
    """Whether records are the same, but for the file and the last digits."""
    if isinstance(theirs, dict):
        theirs = {key: value for key, value in theirs.items() if key not in ("file", "scale")}
        assert mine.keys() - {"scale", "file"} == theirs.keys()
        for key, value in theirs.items():
            near(mine[key], value)
    elif isinstance(theirs, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            near(one, other)
    elif isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    else:
        assert mine == theirs


# What comes out


@pytest.mark.parametrize("what", ["sheet", "heads", "none"])
def test_numbers_are_those_of_show(run: Run, what: str) -> None:
    code, out, err = run("photos", "-o", "out", "--pictures", what)
    assert (code, out) == (0, "")
    assert err == "attnviz: 12 done, 0 failed, in out\n"
    records = batches.lines(Path("out/stats.jsonl"))
    manifest = batches.lines(Path("out/manifest.jsonl"))
    paths = sorted(str(path) for path in Path("photos").rglob("*.png"))
    assert [record["image"]["path"] for record in records] == paths
    assert [line["path"] for line in manifest] == paths
    folders = [None if what == "none" else str(Path(p).relative_to("photos")) for p in paths]
    assert [line["folder"] for line in manifest] == folders
    assert {line["status"] for line in manifest} == {"done"}
    for record in records[::5]:
        near(record, shown(record["image"]["path"]))


def test_files_of_each_picture(run: Run) -> None:
    run("photos", "-o", "sheet")
    run("photos", "-o", "heads", "--pictures", "heads", "--npz")
    run("photos", "-o", "none", "--pictures", "none")
    all_of_them = {"stats.jsonl", "manifest.jsonl", "index.html"}
    all_of_them |= {".attnviz/journal.jsonl", ".attnviz/lock"}
    names = {str(path.relative_to("photos")) for path in Path("photos").rglob("*.png")}
    assert set(batches.tree(Path("none"))) == all_of_them
    expected = all_of_them | {f"{n}/{file}" for n in names for file in ("sheet.png", "stats.json")}
    thumbnails = {f".attnviz/thumbnails/{thumbnail_name(f'{name}/sheet.png')}" for name in names}
    assert set(batches.tree(Path("sheet"))) == expected | thumbnails
    shown("photos/sub/deep/p3.png", "--npz")
    mine, theirs = batches.tree(Path("heads/sub/deep/p3.png")), batches.tree(Path("shown/p3.png"))
    assert mine.keys() == theirs.keys()
    for name in ("sheet.png", "layer00-head00.png", "layer00-head01.png"):
        one, other = (np.asarray(Image.open(io.BytesIO(f[name])), int) for f in (mine, theirs))
        assert abs(one - other).max() <= 1


def test_a_sheet_looks_as_that_of_show(run: Run) -> None:
    pictures.noise(1200, 800).save("photos/large.png")
    pictures.noise(900, 12).save("photos/strip.png")
    for name, question in (("large.png", ["-q", "300,200,900,700"]), ("strip.png", [])):
        run("photos/" + name, "-o", "out", *question, "--fit", "crop")
        shown("photos/" + name, *question, "--fit", "crop")
        one, other = (
            np.asarray(Image.open(f"{f}/{name}/sheet.png"), int) for f in ("out", "shown")
        )
        assert one.shape == other.shape
        assert abs(one - other).mean() < 2


@pytest.mark.parametrize(
    "question",
    [
        ["--stats", "all"],
        ["--method", "relevance", "--target", "norm"],
        ["-q", "20,20", "-q", "mean"],
        ["--mask", "mask.png"],
    ],
)
def test_every_question_can_be_asked(run: Run, question: list[str]) -> None:
    for path in list(Path("photos").rglob("*.png")):
        with Image.open(path) as image:
            if image.size != (64, 48):
                path.unlink()
    Image.new("L", (64, 48), 255).save("mask.png")
    assert run("photos", "-m", "tiny", "--patch", "8", "-o", "out")[0] == 2  # not of tiny
    arguments = ["batch", "photos", "-m", "tiny", "--size", "48", "-o", "out", *question]
    assert main([*arguments, "--batch-size", "2"]) == 0
    for record in batches.lines(Path("out/stats.jsonl")):
        path = record["image"]["path"]
        line = ["show", path, "-m", "tiny", "--size", "48", "-o", "shown", "--quiet", *question]
        assert main(line) == 0
        near(record, json.loads(Path("shown", Path(path).name, "stats.json").read_text()))


def test_streams(run: Run) -> None:
    code, out, _ = run("photos", "-o", "a", "--json")
    assert code == 0
    records = batches.lines(Path("a/stats.jsonl"))
    found = sorted(
        (json.loads(line) for line in out.splitlines()), key=lambda r: str(r["image"]["path"])
    )
    assert found == records
    rows = list(csv.DictReader(io.StringIO(run("photos", "-o", "b", "--csv")[1])))
    assert len(rows) == 12 * 2
    code, out, err = run("photos", "-o", "c", "--quiet")
    assert (code, err) == (0, "")
    written = {path for path in Path("c").rglob("*") if path.is_file() and ".att" not in str(path)}
    assert {Path(line) for line in out.splitlines()} == written


def test_odd_names_go_through(run: Run) -> None:
    names = [b"-v.png", b"two\nlines.png", "🐈.png".encode(), b"\xff.png", b"\xfe.png"]
    names.append(b"x" * 251 + b".png")
    Path("odd").mkdir()
    for i, name in enumerate(names):
        pictures.noise(40, 40, seed=i).save("odd/one.png")
        os.rename(b"odd/one.png", b"odd/" + name)  # noqa: PTH104
    for _ in range(2):
        assert run("odd", "-o", "out")[0] == 0
    manifest = batches.lines(Path("out/manifest.jsonl"))
    assert {os.fsencode(line["folder"]) for line in manifest} == set(names)
    assert len({line["file"] for line in manifest}) == 6
    assert all(Path("out", line["folder"], "sheet.png").is_file() for line in manifest)
    Path("out/stats.jsonl").read_text(encoding="utf-8")


# What goes wrong


def test_hostile_files_leave_the_rest_done(run: Run) -> None:
    said = batches.hostile(Path("photos"))
    Path("photos/folder.jpg").mkdir()
    (Path("photos/folder.jpg") / "in.png").write_bytes(Path("photos/p0.png").read_bytes())
    code, _, err = run("photos", "-o", "out")
    assert code == 3
    manifest = {line["path"]: line for line in batches.lines(Path("out/manifest.jsonl"))}
    assert len(manifest) == 13 + len(said)
    for name, word in said.items():
        line = manifest[f"photos/{name}"]
        assert (line["status"], line["folder"]) == ("failed", None)
        assert word in line["error"]
        assert "\n" not in line["error"]
    assert sum(line["status"] == "done" for line in manifest.values()) == 13
    assert len([line for line in err.splitlines() if "error: " in line]) == len(said)
    assert f"13 done, {len(said)} failed, in out; errors are in manifest.jsonl" in err
    before = batches.tree(Path("out"))
    assert run("photos", "-o", "out")[0] == 3
    assert batches.tree(Path("out")) == before


def test_all_failed_is_failed(run: Run) -> None:
    Path("bad").mkdir()
    Path("bad/a.jpg").write_text("no")
    assert run("bad", "-o", "out")[0] == 1
    assert run("gone", "-o", "other")[0] == 1
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["photos", "--batch-size", "0"], 2, "--batch-size '0'"),
        (["photos", "--pictures", "none", "--animate", "heads"], 2, "--animate draws"),
        (["photos", "--pictures", "some"], 2, "some"),
        (["photos", "--colormap", "mauve"], 2, "mauve"),
        (["-"], 2, "not -"),
        (["gone"], 1, "gone: no such file"),
        (["gone.txt"], 1, "gone.txt: no such file"),
        (["photos", "-o", "photos/p0.png"], 1, "a file is where a folder must be"),
        (["photos", "--layers", "5"], 2, "1 layer"),
        (["photos", "-m", "tiny"], 2, "-m: given twice"),
        (["photos", "--method", "gone"], 2, "unknown method 'gone'"),
    ],
)
def test_errors_are_one_line(run: Run, arguments: list[str], code: int, told: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert told in err


def test_thumbnails_are_drawn_with_the_sheets_as_they_would_be_from_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(b"odd\xff.png")
    shutil.copy("photos/p0.png", Path("photos") / odd)
    decoded: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr("attnviz.batch.gallery.load_image", decoded.append)
        assert run("photos", "-o", "out")[0] == 0
    assert decoded == []
    drawn = batches.tree(Path("out/.attnviz/thumbnails"))
    assert len(drawn) == 13
    shutil.rmtree("out/.attnviz/thumbnails")
    write_gallery(Path("out"))
    assert batches.tree(Path("out/.attnviz/thumbnails")) == drawn


def test_without_pictures_those_of_an_earlier_run_go_and_nothing_else(run: Run) -> None:
    run("photos", "-o", "fresh", "--pictures", "none")
    run("photos", "-o", "out")
    mine = Path("out/p0.png/mine.txt")
    mine.write_text("mine")
    assert run("photos", "-o", "out", "--pictures", "none")[0] == 0
    assert mine.read_text() == "mine"
    mine.unlink()
    found, expected = (batches.tree(Path(folder)) for folder in ("out", "fresh"))
    assert found == expected
    assert {path.name for path in Path("out").iterdir() if path.is_dir()} == {".attnviz", "p0.png"}


def test_a_query_beside_one_picture_leaves_the_others(run: Run) -> None:
    code, _, err = run("photos", "-o", "out", "--query", "70,10")
    assert code == 3
    failed = [x for x in batches.lines(Path("out/manifest.jsonl")) if x["status"] == "failed"]
    assert failed
    assert all("70,10" in line["error"] for line in failed)
    assert "error: photos/" in err


def test_a_question_that_the_model_cannot_be_asked_ends_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UsageError("--method rollout: layer 0 has windows")

    monkeypatch.setattr(work, "answer", refuse)
    code, _, err = run("photos", "-o", "out")
    assert code == 2
    assert err.splitlines()[-1] == "attnviz: error: --method rollout: layer 0 has windows"
    assert journal_lines() == 8  # of 12: enough to see


def test_a_full_disk_ends_the_run_and_it_goes_on_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, done: list[str]
) -> None:
    run("photos", "-o", "whole")
    real, written = whole_files.write_whole, list[Path]()

    def full(path: Path, data: bytes) -> Path:
        written.append(path)
        if len(written) > 9:
            cause = OSError(28, "No space left on device")
            raise OutputError(f"{path}: cannot be written ({cause.strerror})") from cause
        return real(path, data)

    done.clear()
    monkeypatch.setattr(whole_files, "write_whole", full)
    code, _, err = run("photos", "-o", "out")
    assert code == 1
    assert err.splitlines()[-1].endswith("No space left on device)")
    assert not Path("out/manifest.jsonl").exists()
    monkeypatch.setattr(whole_files, "write_whole", real)
    done.clear()
    assert run("photos", "-o", "out")[0] == 0
    assert 0 < len(done) < 12
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_a_file_that_may_not_grow_ends_the_run() -> None:
    """A disk that is full in earnest: the system refuses to write on."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))

    line = batches.command("photos", "-o", "out", "--pictures", "none")
    found = subprocess.run(line, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert found.returncode == 1
    assert "journal.jsonl: cannot be written" in found.stderr
    assert len(found.stderr.splitlines()) == 1
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
    assert len(batches.lines(Path("out/stats.jsonl"))) == 12


# Going on


def test_what_is_done_is_not_done_again(
    run: Run, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("photos", "-o", "out")
    before = batches.tree(Path("out"))
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr("attnviz.models.load_model", None)
        code, _, err = run("photos", "-o", "out")
    assert (code, done, batches.tree(Path("out"))) == (0, [], before)
    assert "12 done (12 before)" in err
    assert run("photos", "-o", "out", "--force")[0] == 0
    assert (len(done), batches.tree(Path("out"))) == (12, before)


@pytest.mark.parametrize(
    "change",
    [["--seed", "1"], ["--query", "20,20"], ["--fit", "crop"], ["--alpha", "1"], ["--npz"],
     ["--pictures", "heads"], ["--format", "webp"]],
)  # fmt: skip
def test_a_changed_setting_does_all_again(run: Run, done: list[str], change: list[str]) -> None:
    run("photos", "-o", "out")
    done.clear()
    assert run("photos", "-o", "out", *change)[0] == 0
    assert len(done) == 12
    run("photos", "-o", "fresh", *change)
    assert batches.tree(Path("out")) == batches.tree(Path("fresh"))


def test_changed_weights_do_all_again(run: Run, done: list[str]) -> None:
    weights = pictures.uniform_layer(Path("weights.safetensors"))
    run("photos", "-o", "out", "--weights", str(weights))
    done.clear()
    run("photos", "-o", "out", "--weights", str(weights))
    assert done == []
    pictures.brightness_layer(weights, patch=8)
    run("photos", "-o", "out", "--weights", str(weights))
    assert len(done) == 12


def test_only_what_changed_is_done_again(run: Run, done: list[str]) -> None:
    run("photos", "-o", "out")
    pictures.noise(64, 48, seed=99).save("photos/p0.png")
    Path("photos/sub/p1.png").touch()  # holds the same
    shutil.rmtree("out/sub/deep/p2.png")
    Path("out/p3.png/sheet.png").write_bytes(b"half")
    shutil.copy("photos/p2.png", "photos/new.png")
    Path("photos/sub/p0.png").unlink()
    done.clear()
    assert run("photos", "-o", "out")[0] == 0
    assert sorted(done) == [
        f"photos/{name}" for name in ("new.png", "p0.png", "p3.png", "sub/deep/p2.png")
    ]
    manifest = batches.lines(Path("out/manifest.jsonl"))
    assert len(manifest) == 12
    assert "photos/sub/p0.png" not in [line["path"] for line in manifest]


def test_content_that_changes_while_its_size_and_time_stay_is_seen(
    run: Run, done: list[str]
) -> None:
    path = Path("photos/same.bmp")  # of one size whatever it shows
    pictures.noise(64, 48, seed=1).save(path)
    run("photos", "-o", "out")
    before = path.stat()
    pictures.noise(64, 48, seed=2).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    done.clear()
    assert run("photos", "-o", "out")[0] == 0
    assert done == ["photos/same.bmp"]


def test_a_picture_that_is_mended_is_done(run: Run, done: list[str]) -> None:
    Path("photos/bad.png").write_text("no")
    assert run("photos", "-o", "out")[0] == 3
    pictures.noise(64, 48).save("photos/bad.png")
    done.clear()
    assert run("photos", "-o", "out")[0] == 0
    assert done == ["photos/bad.png"]


def test_groups_do_not_depend_on_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[list[str]] = []
    real = work.ask

    def ask(group: Any, *rest: Any) -> Any:
        groups.append([each.entry.path for each in group])
        return real(group, *rest)

    monkeypatch.setattr(work, "ask", ask)
    run("photos", "-o", "out", "--batch-size", "2")
    whole = groups[:]
    shutil.rmtree("out/sub")
    groups.clear()
    run("photos", "-o", "out", "--batch-size", "2")
    missing = {line for group in whole for line in group if line.startswith("photos/sub/")}
    assert groups == [group for group in whole if missing & set(group)]


def journal_lines() -> int:
    journal = Path("out/.attnviz/journal.jsonl")
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for(number: int, process: "subprocess.Popen[str]") -> None:
    """Until so many pictures are done."""
    deadline = time.monotonic() + 60
    while journal_lines() < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def test_killed_at_any_moment_it_ends_in_the_same_bytes(run: Run) -> None:
    batches.photos(Path("photos"), 60)
    batches.hostile(Path("photos"))
    arguments = ["photos", "--batch-size", "4", "--pictures", "heads"]
    assert run(*arguments, "-o", "whole")[0] == 3
    chance = random.Random(0)
    for number in sorted(chance.sample(range(60), 6)):
        with batches.start(*arguments, "-o", "out") as process:
            wait_for(number, process)
            time.sleep(0.05 * chance.random())
            process.kill()
    assert run(*arguments, "-o", "out")[0] == 3
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_half_a_file_of_a_killed_run_is_removed(run: Run) -> None:
    run("photos", "-o", "whole")
    Path("out/p0.png").mkdir(parents=True)
    Path("out/p0.png/.sheet.png.4711.part").write_bytes(b"half")
    run("photos", "-o", "out")
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_two_runs_into_one_folder(run: Run) -> None:
    batches.photos(Path("photos"), 90)
    with batches.start("photos", "-o", "out", "--batch-size", "1") as first:
        wait_for(1, first)
        code, out, err = run("photos", "-o", "out")
        first.kill()
    assert (code, out) == (1, "")
    assert "out: another run writes there" in err
    assert run("photos", "-o", "out")[0] == 0


def test_ctrl_c_finishes_what_was_begun_and_says_how_to_go_on() -> None:
    batches.photos(Path("photos"), 90)
    with batches.start("photos", "-o", "out", "--batch-size", "2") as process:
        wait_for(3, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    first, *_, last = err.splitlines()
    assert first == "attnviz: finishing what was begun; Ctrl-C again ends at once"
    number = journal_lines()
    assert last == (
        f"attnviz: interrupted: {number} of 90 pictures done; the same command goes on from here"
    )
    assert not list(Path("out").rglob("*.part"))
    assert len(list(Path("out").rglob("sheet.png"))) == number
    found = subprocess.run(
        batches.command("photos", "-o", "out"), capture_output=True, text=True, check=False
    )
    assert found.stderr == f"attnviz: 90 done ({number} before), 0 failed, in out\n"


@pytest.mark.parametrize(
    ("size", "expected"), [("picture", (300, 200)), ("60", (60, 40)), ("4000", (300, 200))]
)
def test_overlays_have_the_size_asked_for(
    tmp_path: Path, size: str, expected: tuple[int, int]
) -> None:
    pictures.noise(300, 200, seed=1).save(tmp_path / "a.png")
    options = ("-m", "random", "--size", "32", "--heads", "1", "--overlay-size", size)
    for line in (["show"], ["batch", "--pictures", "heads"]):
        out = tmp_path / line[0]
        assert main([*line, str(tmp_path / "a.png"), *options, "-o", str(out)]) == ExitCode.DONE
        with Image.open(out / "a.png" / "layer00-head00.png") as image:
            assert image.size == expected


@pytest.mark.parametrize("size", ["0", "15", "big", "-3", "1.5"])
def test_a_size_of_overlays_that_cannot_be_is_told(
    size: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "a.png", f"--overlay-size={size}"]) == ExitCode.USAGE
    assert "give picture, or a number of pixels from 16 on" in capfd.readouterr().err
    assert main(["batch", "photos", "--overlay-size", "60"]) == ExitCode.USAGE
