"""`attnviz batch --engine ray`, on two workers of this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import batches
import pytest

from attnviz.batch import run
from attnviz.cli import main
from attnviz.errors import ExitCode

pytest.importorskip("ray.data")
# Of Ray's own, at its start and end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RAY = ("--engine", "ray", "--workers", "2")
WINDOW = 8
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
DRIVER = """
import sys
from attnviz.batch import run
from attnviz.cli import main
if __name__ == "__main__":
    run.WINDOW = 8
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "WINDOW", WINDOW)
    batches.photos(Path("photos"), 30)
    return tmp_path


def batch(*arguments: str) -> int:
    return main(["batch", "photos", *batches.SMALL, *arguments])


def mortal(name: str, *, lives: int) -> list[str]:
    """A model of one's own that kills its process at the first so many calls."""
    marks = Path(f"{name}-marks").absolute()
    marks.mkdir()
    Path(f"{name}.py").write_text(MORTAL.format(marks=str(marks), lives=lives), encoding="utf-8")
    return ["-m", f"py:{name}.py:Mortal", "--patch", "8", "--size", "32"]


def test_files_and_numbers_are_those_of_one_machine_also_where_pictures_are_hostile() -> None:
    said = batches.hostile(Path("photos"))
    assert batch("-o", "here", "--npz") == ExitCode.SOME_FAILED
    assert batch("-o", "there", "--npz", *RAY) == ExitCode.SOME_FAILED
    here, there = batches.tree(Path("here")), batches.tree(Path("there"))
    assert here.keys() == there.keys()
    assert here == there
    failed = {
        Path(line["path"]).name: line["error"]
        for line in batches.lines(Path("there/manifest.jsonl"))
        if line["status"] == "failed"
    }
    assert failed.keys() == said.keys()
    assert all(word in failed[name] for name, word in said.items())


def test_a_driver_that_is_killed_goes_on(desk: Path) -> None:
    assert batch("-o", "whole") == ExitCode.DONE
    (desk / "driver.py").write_text(DRIVER, encoding="utf-8")
    command = [sys.executable, "driver.py", "batch", "photos", *batches.SMALL, "-o", "out", *RAY]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, end = Path("out/.attnviz/journal.jsonl"), time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes()):
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    known = len(journal.read_bytes().splitlines())
    assert batch("-o", "out", *RAY) == ExitCode.DONE
    assert known > 0
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_a_worker_that_is_killed_costs_time_only(capfd: pytest.CaptureFixture[str]) -> None:
    model = mortal("model", lives=1)
    assert main(["batch", "photos", *model, "-o", "there", *RAY]) == ExitCode.DONE
    assert len(list(Path("model-marks").iterdir())) == 1
    assert not capfd.readouterr().out  # Ray would have its say there
    assert main(["batch", "photos", *model, "-o", "here"]) == ExitCode.DONE
    assert batches.tree(Path("there")) == batches.tree(Path("here"))


def test_a_window_that_kills_every_worker_ends_with_a_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = mortal("model", lives=1000)
    assert main(["batch", "photos/sub/deep", *model, "-o", "out", *RAY]) == ExitCode.FAILED
    assert "was killed 4 times" in capfd.readouterr().err
    assert not Path("out/.attnviz/cluster").exists()


def test_a_model_that_cannot_be_had_is_told_as_it_is(capfd: pytest.CaptureFixture[str]) -> None:
    assert batch("-o", "out", "--layers", "7", *RAY) == ExitCode.USAGE
    err = capfd.readouterr().err
    assert "attnviz: error: --layers: the model has 1 layer" in err
    assert "Traceback" not in err
