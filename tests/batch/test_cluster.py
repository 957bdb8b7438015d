"""`attnviz batch --engine ray`, on two workers of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import batches
import pytest

from attnviz.batch.connection import connected, library
from attnviz.cli import main
from attnviz.errors import ExitCode

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of itself
RAY = ("--engine", "ray", "--workers", "2")
MORTAL = """
import os, signal, torch
from attnviz import MultiHeadAttention

class Mortal(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiHeadAttention(2, 192)

    def forward(self, pixels):
        marks = {marks!r}
        if len(os.listdir(marks)) < {lives}:
            open(os.path.join(marks, str(os.getpid())), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        size = 8
        patches = torch.nn.functional.unfold(pixels, size, stride=size).transpose(1, 2)
        return self.attention(patches)[0]
"""
TIME = 560  # seconds: a run takes ten


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    batches.photos(Path("photos"), 30)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One cluster for the tests that need none of their own; its address."""
    with connected(library(), None):
        yield ray.get_runtime_context().gcs_address


def batch(*arguments: str) -> int:
    return main(["batch", "photos", *batches.SMALL, *arguments])


def driver(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A run in a process of its own."""
    command = [sys.executable, "-m", "attnviz", "batch", *arguments, *RAY]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIME, check=False)


def mortal(name: str, *, lives: int) -> list[str]:
    """A model of one's own that kills its process at the first so many calls."""
    marks = Path(f"{name}-marks").absolute()
    marks.mkdir()
    Path(f"{name}.py").write_text(MORTAL.format(marks=str(marks), lives=lives), encoding="utf-8")
    return ["-m", f"py:{name}.py:Mortal", "--patch", "8", "--size", "32"]


@pytest.mark.usefixtures("cluster")
def test_files_and_numbers_are_those_of_one_machine_also_where_pictures_are_hostile() -> None:
    said = batches.hostile(Path("photos"))
    options = ["--method", "attention", "--method", "rollout", "--npz", "--parquet"]
    assert batch(*options, "-o", "here") == ExitCode.SOME_FAILED
    assert batch(*options, "-o", "there", *RAY) == ExitCode.SOME_FAILED
    found, expected = batches.tree(Path("there")), batches.tree(Path("here"))
    assert {"p0.png/attention/maps.npz", "p0.png/rollout/maps.npz"} <= found.keys()
    assert found.keys() == expected.keys()
    assert found == expected
    records = [record["method"] for record in batches.lines(Path("there/stats.jsonl"))]
    assert records == ["attention", "rollout"] * 30
    failed = {
        Path(line["path"]).name: line["error"]
        for line in batches.lines(Path("there/manifest.jsonl"))
        if line["status"] == "failed"
    }
    assert failed.keys() == said.keys()
    assert all(word in failed[name] for name, word in said.items())


def test_a_driver_that_is_killed_goes_on(cluster: str) -> None:
    """On a cluster that has other drivers, and then on one of its own."""
    assert batch("-o", "whole") == ExitCode.DONE
    command = [
        sys.executable,
        "-m",
        "attnviz",
        "batch",
        "photos",
        *batches.SMALL,
        "-o",
        "out",
        *RAY,
    ]
    command += ["--ray-address", cluster]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = Path("out/.attnviz/journal.jsonl")
    while not (journal.exists() and journal.read_bytes()):
        assert killed.poll() is None
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    known = len(journal.read_bytes().splitlines())
    again = driver("photos", *batches.SMALL, "-o", "out")
    assert again.returncode == ExitCode.DONE, again.stderr
    assert known > 0
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_a_worker_that_is_killed_costs_time_only(cluster: str) -> None:
    model = mortal("model", lives=1)
    there = driver("photos", *model, "-o", "there", "--ray-address", cluster)
    assert there.returncode == ExitCode.DONE, there.stderr
    assert len(list(Path("model-marks").iterdir())) == 1
    assert not there.stdout  # Ray would print its news there
    assert main(["batch", "photos", *model, "-o", "here"]) == ExitCode.DONE
    assert batches.tree(Path("there")) == batches.tree(Path("here"))


@pytest.mark.usefixtures("cluster")
def test_a_window_that_kills_every_worker_ends_with_a_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = mortal("model", lives=1000)
    pictures = ["photos/p0.png"]
    ended = main(["batch", *pictures, *model, "-o", "out", *RAY[:2], "--workers", "1"])
    assert ended == ExitCode.FAILED
    assert "was killed 4 times" in capfd.readouterr().err
    assert not Path("out/.attnviz/cluster").exists()


@pytest.mark.usefixtures("cluster")
def test_a_model_that_cannot_be_had_is_told_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    ended = batch("-o", "out", "--layers", "7", *RAY[:2], "--workers", "1")
    assert ended == ExitCode.USAGE
    told = capfd.readouterr().err
    assert "attnviz: error: --layers: the model has 1 layer" in told
    assert "Traceback" not in told
