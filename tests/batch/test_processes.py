"""`attnviz batch --workers N`: processes of this machine, without a cluster."""

import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import batches
import psutil
import pytest

from attnviz.batch.processes import ProcessEngine
from attnviz.cli import main
from attnviz.errors import AttnvizError, ExitCode

MORTAL = """
import os, signal, torch
from attnviz import MultiHeadAttention

class Mortal(torch.nn.Module):
    '''Kills its process at its first call, once.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = MultiHeadAttention(2, 192)

    def forward(self, pixels):
        if not os.path.exists("lived"):
            open("lived", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        patches = torch.nn.functional.unfold(pixels, 8, stride=8).transpose(1, 2)
        return self.attention(patches)[0]
"""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    batches.photos(Path("photos"), 24)


def batch(*arguments: str) -> int:
    return main(["batch", "photos", *batches.SMALL, *arguments])


def test_files_and_numbers_are_those_of_one_process() -> None:
    batches.hostile(Path("photos"))
    options = ["--method", "attention", "--method", "rollout", "--npz"]
    assert batch(*options, "-o", "here") == ExitCode.SOME_FAILED
    assert batch(*options, "-o", "there", "--workers", "2") == ExitCode.SOME_FAILED
    assert batches.tree(Path("there")) == batches.tree(Path("here"))


def test_a_driver_that_is_killed_goes_on_and_its_processes_end() -> None:
    line = batches.command("photos", "-o", "out", "--workers", "2")
    with subprocess.Popen(line, stderr=subprocess.DEVNULL) as driver:
        journal = Path("out/.attnviz/journal.jsonl")
        while not (journal.exists() and journal.read_bytes()):
            assert driver.poll() is None
            time.sleep(0.01)
        workers = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
    gone, alive = psutil.wait_procs(workers, timeout=120)
    assert gone
    assert not alive
    assert batch("-o", "out") == batch("-o", "whole") == ExitCode.DONE
    assert batches.tree(Path("out")) == batches.tree(Path("whole"))


def test_a_process_that_is_killed_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    Path("mortal.py").write_text(MORTAL, encoding="utf-8")
    model = ["-m", "py:mortal.py:Mortal", "--patch", "8", "--size", "32", "--pictures", "none"]
    line = ["batch", "photos", *model, "-o", "out"]
    assert main([*line, "--workers", "2"]) == ExitCode.FAILED
    assert f"a process ended (code {-signal.SIGKILL}); run again" in capfd.readouterr().err
    assert main(line) == ExitCode.DONE


def test_a_question_without_an_answer_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert batch("-o", "out", "--layers", "7", "--workers", "2") == ExitCode.USAGE
    told = capfd.readouterr().err
    assert "attnviz: error: --layers: the model has 1 layer" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError])
def test_a_process_that_ends_as_it_starts_is_told(error: type[Exception]) -> None:
    """What it has not read yet resets the pipe."""

    def recv() -> None:
        raise error

    engine = ProcessEngine({}, None, Path(), workers=1, batch=None, stop=None, on_outcome=print)  # type: ignore[arg-type]
    ended = SimpleNamespace(join=lambda: None, exitcode=-9)
    with pytest.raises(AttnvizError, match=r"--workers: a process ended \(code -9\); run again"):
        engine._receive(SimpleNamespace(recv=recv), ended)  # type: ignore[arg-type]
