"""Shards of a folder: disjoint, complete, safe side by side, and merged equal to one run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import batches
import pytest

from attnviz.batch import merge_shards
from attnviz.batch.ledger import Ledger
from attnviz.batch.shares import FOLDER, Shard, windows
from attnviz.batch.sources import Item, find
from attnviz.cli import main
from attnviz.errors import ExitCode

COUNTING = """
import torch
from attnviz import MultiHeadAttention

class Counting(torch.nn.Module):
    '''What it sees depends on how many pictures run together.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = MultiHeadAttention(2, 192)

    def forward(self, pixels):
        patches = torch.nn.functional.unfold(pixels * len(pixels), 8, stride=8).transpose(1, 2)
        return self.attention(patches)[0]
"""
MODEL = ("-m", "py:counting.py:Counting", "--patch", "8", "--size", "32")


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("counting.py").write_text(COUNTING, encoding="utf-8")
    return tmp_path


def batch(*arguments: str) -> int:
    return main(["batch", "photos", *MODEL, *arguments])


def shards(out: str, number: int, *options: str) -> list[int]:
    return [batch("-o", out, *options, "--shard", f"{i + 1}/{number}") for i in range(number)]


def items(number: int) -> list[Item]:
    return [Item(f"photos/{i}\udcff.jpg", f"{i}\udcff.jpg") for i in range(number)]


@pytest.mark.parametrize("number", [3, 100, 3000])
def test_shards_are_disjoint_complete_and_do_not_cross_windows(number: int) -> None:
    whole = windows(items(number))
    assert {item for window in whole for item in window} == set(items(number))
    assert sum(map(len, whole)) == number
    for of in (1, 3, 16, 40):
        parts = [windows(items(number), Shard(of, i + 1)) for i in range(of)]
        assert [each for part in parts for each in part] == whole
    sizes = [sum(map(len, windows(items(number), Shard(4, i + 1)))) for i in range(4)]
    assert number < 3000 or max(sizes) < 1.2 * number / 4


def test_a_share_is_that_of_the_path_in_the_folder_on_every_machine() -> None:
    """The first windows of names are pinned: another hash would break shards that run today."""
    folder = [Item(f"anywhere/{i}.jpg", f"{i}.jpg") for i in range(32)]
    first = windows(folder, Shard(4, 1))
    assert [[item.folder for item in window] for window in first] == [
        ["11.jpg", "12.jpg", "30.jpg"],
        ["15.jpg", "25.jpg"],
    ]
    elsewhere = [Item(f"/mnt/{i}.jpg", f"{i}.jpg") for i in range(32)]
    assert [len(window) for window in windows(elsewhere)] == [len(each) for each in windows(folder)]


def test_shards_of_hostile_files_merge_to_one_run(capfd: pytest.CaptureFixture[str]) -> None:
    batches.photos(Path("photos"), 20)
    batches.hostile(Path("photos"))
    shutil.copy("photos/p1.png", os.fsdecode(b"photos/odd\xff\n.png"))
    options = ("--method", "attention", "--method", "rollout", "--npz", "--aggregate")
    assert batch(*options, "-o", "one") == ExitCode.SOME_FAILED
    numbers = capfd.readouterr().out
    assert set(shards("out", 4, *options)) == {ExitCode.SOME_FAILED}
    assert not Path("out/index.html").exists()
    assert not capfd.readouterr().out
    assert main(["merge", "out"]) == ExitCode.SOME_FAILED
    assert capfd.readouterr().out == numbers
    assert batches.tree(Path("out")) == batches.tree(Path("one"))
    assert batch(*options, "-o", "out") == ExitCode.SOME_FAILED  # only failures are tried again
    assert batches.tree(Path("out")) == batches.tree(Path("one"))


def start(shard: str) -> "subprocess.Popen[str]":
    line = [
        sys.executable,
        "-m",
        "attnviz",
        "batch",
        "photos",
        *MODEL,
        "-o",
        "out",
        "--shard",
        shard,
    ]
    return subprocess.Popen(line, stderr=subprocess.PIPE, text=True)


def test_shards_run_at_the_same_time_and_survive_a_kill(capfd: pytest.CaptureFixture[str]) -> None:
    batches.photos(Path("photos"), 40)
    killed, other = start("1/2"), start("2/2")
    journal = Path("out/.attnviz/shards/1-of-2/journal.jsonl")
    while not (journal.exists() and journal.read_bytes()):
        assert killed.poll() is None
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    _, said = other.communicate()
    assert other.returncode == ExitCode.DONE, said
    assert main(["merge", "out"]) == ExitCode.USAGE
    assert "shard 1/2 is not finished; run the command of the others" in capfd.readouterr().err
    known = batches.stamps(Path("out"), _done(journal))
    again = start("1/2")
    _, said = again.communicate()
    assert again.returncode == ExitCode.DONE, said
    assert batches.stamps(Path("out"), _done(journal)[: len(known)]) == known
    assert main(["merge", "out"]) == batch("-o", "one") == ExitCode.DONE
    assert batches.tree(Path("out")) == batches.tree(Path("one"))


def _done(journal: Path) -> list[str]:
    """Folders of the pictures in a journal."""
    whole = journal.read_bytes().rpartition(b"\n")[0].splitlines()
    return [line.split(b'"folder": "')[1].split(b'"')[0].decode() for line in whole]


@pytest.mark.parametrize("step", ["close_all", "shutil.rmtree"])
def test_a_merge_that_is_broken_off_can_be_repeated(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches.photos(Path("photos"), 12)
    options = ("--pictures", "none")
    assert batch(*options, "-o", "one") == ExitCode.DONE
    shards("out", 2, *options)

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"attnviz.batch.merge_shards.{step}", broken)
        assert main(["merge", "out"]) == ExitCode.INTERRUPTED
    assert main(["merge", "out"]) == ExitCode.DONE
    assert batches.tree(Path("out")) == batches.tree(Path("one"))


def test_a_folder_that_has_results_is_continued_by_shards() -> None:
    batches.photos(Path("photos"), 12)
    options = ("--pictures", "none")
    assert batch(*options, "-o", "out") == ExitCode.DONE
    before = batches.tree(Path("out"))
    shards("out", 2, *options)
    journals = Path("out", FOLDER).glob("*/journal.jsonl")
    assert [path.read_bytes() for path in journals] == [b"", b""]  # nothing was done again
    assert main(["merge", "out"]) == ExitCode.DONE
    assert batches.tree(Path("out")) == before


def said(capfd: pytest.CaptureFixture[str], command: Sequence[str], code: ExitCode) -> str:
    assert main(command) == code
    (line,) = capfd.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("shard", "answer"),
    [
        ("5/4", "shards are counted from 1 to N; give 1/4 to 4/4"),
        ("0/4", "shards are counted from 1 to N; give 1/4 to 4/4"),
        ("a", "'a' cannot be read; give I/N"),
        ("1/4/4", "cannot be read"),
        ("-1/4", "cannot be read"),
    ],
)
def test_a_slip_in_a_shard_is_told(
    shard: str, answer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert answer in said(capfd, ["batch", "photos", f"--shard={shard}"], ExitCode.USAGE)
    line = ["batch", "photos", "--shard", "1/2", "--engine", "ray"]
    assert "leave out one" in said(capfd, line, ExitCode.USAGE)


def test_what_cannot_be_merged_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    batches.photos(Path("photos"), 12)
    options, merge = ("--pictures", "none", "-o", "out"), ["merge", "out"]
    assert "there is no shard to merge" in said(capfd, merge, ExitCode.USAGE)
    assert not Path("out").exists()
    for shard in ("1/3", "3/3"):
        batch(*options, "--shard", shard)
    capfd.readouterr()
    assert "shard 2/3 is missing" in said(capfd, merge, ExitCode.USAGE)
    one = ["batch", "photos", *MODEL, *options]
    assert "shard 1/3 is there and not merged" in said(capfd, one, ExitCode.USAGE)
    assert "1/3 is there" in said(capfd, [*one, "--shard", "1/2"], ExitCode.USAGE)
    with Ledger(Path("out"), Shard(3, 2)):
        assert "shard 2/3 is still running" in said(capfd, merge, ExitCode.FAILED)
        again = said(capfd, [*one, "--shard", "2/3"], ExitCode.FAILED)
        assert "another run writes there" in again
    assert "shard 2/3 is not finished" in said(capfd, merge, ExitCode.USAGE)
    batch(*options, "--shard", "2/3", "--query", "mean", "--layers", "all")
    capfd.readouterr()
    assert "1/3 and 2/3 were made with different options" in said(capfd, merge, ExitCode.USAGE)
    shutil.copy("photos/p1.png", "photos/new.png")
    batch(*options, "--shard", "2/3")
    capfd.readouterr()
    assert "1/3 and 2/3 found different files (12 and 13" in said(capfd, merge, ExitCode.USAGE)
    shards("out", 3, *options[:2])
    assert main(merge) == ExitCode.DONE
    assert len(find(["photos"], Path("out")).items) == len(batches.lines(Path("out/stats.jsonl")))


def test_shards_of_machines_that_share_no_disk_are_copied_together() -> None:
    batches.photos(Path("photos"), 4)
    options = ("--pictures", "none", "--aggregate")
    for number in (1, 2):
        batch("-o", f"out{number}", *options, "--shard", f"{number}/2")
        shutil.copytree(f"out{number}", "out", dirs_exist_ok=True)
    assert merge_shards.merge(Path("out")).finalizers == ("aggregate",)
    assert batch("-o", "one", *options) == ExitCode.DONE
    assert batches.tree(Path("out")) == batches.tree(Path("one"))
