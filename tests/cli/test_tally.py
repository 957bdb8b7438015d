"""How far many pictures are."""

import os
import pty
import subprocess
from pathlib import Path

import batches
import pytest

from attnviz.batch.run import Count
from attnviz.cli import console as shown


def test_a_line_now_and_then_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    with shown.tally(Count(1000, 100, 0)) as tell:
        for done in range(101, 200):
            clock[0] += 0.5
            tell(Count(1000, done, 2))
    assert capfd.readouterr().err == (
        "attnviz: 160 of 1000 done, 2 failed, 2.07 pictures/s, 7 min left\n"
    )
    with shown.tally(Count(10, 0, 0), quiet=True) as tell:
        clock[0] += 99
        tell(Count(10, 1, 0))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (600, "10 min"), (1e4, "2.8 h")])
def test_times_are_said_as_people_do(seconds: float, said: str) -> None:
    assert shown._span(seconds) == said


def test_a_terminal_has_a_bar(tmp_path: Path) -> None:
    batches.photos(tmp_path / "photos", 12)
    leader, follower = pty.openpty()
    line = batches.command(str(tmp_path / "photos"), "-o", str(tmp_path / "out"))
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        told = b""
        try:
            while more := os.read(leader, 9999):
                told += more
        except OSError:  # the other side was closed
            pass
    os.close(leader)
    assert process.returncode == 0
    assert b"12/12" in told
    assert b"0 failed" in told
    assert b"pictures/s" in told
    assert b"12 done, 0 failed" in told.splitlines()[-1]
