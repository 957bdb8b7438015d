"""What is remembered, and what is left of it when a run is broken off."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import batches
import pytest

from attnviz.batch.jobs import LedgerEntry, as_line, digest
from attnviz.batch.ledger import Ledger
from attnviz.errors import OutputError

PATHS = ["a.png", "b\udcff.png", "c.png"]


def entry(path: str, record: dict[str, Any] | None) -> LedgerEntry:
    made = LedgerEntry(path, "done", "s", folder=path, file="f", state=(1, 2, 3), size=(4, 5))
    return made.failed_as("no") if record is None else replace(made, record=digest(as_line(record)))


def fill(out: Path, *, end: bool = True) -> None:
    with Ledger(out) as ledger:
        for number, path in enumerate(reversed(PATHS)):
            record = None if path == "c.png" else {"image": "é", "number": number}
            ledger.add(entry(path, record), None if record is None else as_line(record))
        if end:
            ledger.finish(PATHS)
            ledger.tidy(PATHS)


def test_lines_come_back_sorted(tmp_path: Path) -> None:
    fill(tmp_path)
    manifest = batches.lines(tmp_path / "manifest.jsonl")
    assert [line["path"] for line in manifest] == PATHS
    assert [line["status"] for line in manifest] == ["done", "done", "failed"]
    assert set(manifest[0]) == {"path", "status", "error", "folder", "settings", "file"}
    assert batches.lines(tmp_path / "stats.jsonl") == [
        {"image": "é", "number": 2}, {"image": "é", "number": 1},
    ]  # fmt: skip
    with Ledger(tmp_path) as ledger:
        assert ledger.get("b\udcff.png") == entry("b\udcff.png", {"image": "é", "number": 1})
        assert ledger.get("other") is None


def test_ending_again_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    before = batches.tree(tmp_path)
    with Ledger(tmp_path) as ledger:
        ledger.finish(PATHS)
        ledger.tidy(PATHS)
    assert batches.tree(tmp_path) == before


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_broken_off_at_the_end_it_ends_the_same(tmp_path: Path, steps: int) -> None:
    fill(tmp_path / "whole")
    fill(tmp_path / "out", end=False)
    for step, name in enumerate(("stats.jsonl", "manifest.jsonl", ".attnviz/journal.jsonl")):
        if step < steps:
            (tmp_path / "out" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    with Ledger(tmp_path / "out") as ledger:
        assert [one.path for one in ledger.entries(PATHS)] == PATHS
        ledger.finish(PATHS)
        ledger.tidy(PATHS)
    assert batches.tree(tmp_path / "out") == batches.tree(tmp_path / "whole")


def test_a_line_that_was_broken_off_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, end=False)
    journal_file = tmp_path / ".attnviz" / "journal.jsonl"
    whole = journal_file.read_bytes()
    for rest in (b'{"entry": {"pa', b"\0" * 99, b'{"entry": 3}\n[]\nnull\n{}\n\xff\n{"entry'):
        journal_file.write_bytes(whole + rest)
        with Ledger(tmp_path) as ledger:
            assert len(list(ledger.entries(PATHS))) == 3
            record = {"image": "new"}
            ledger.add(entry("a.png", record), as_line(record))
        assert json.loads(journal_file.read_bytes().splitlines()[-1])["record"] == record


def test_without_its_record_a_picture_is_not_done(tmp_path: Path) -> None:
    fill(tmp_path)
    stats = tmp_path / "stats.jsonl"
    stats.write_bytes(stats.read_bytes().replace(b'"number": 1', b'"number": 7'))
    with Ledger(tmp_path) as ledger:
        assert ledger.get("a.png") is not None
        assert ledger.get("b\udcff.png") is None


def test_a_line_whose_record_is_another_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, end=False)
    journal_file = tmp_path / ".attnviz" / "journal.jsonl"
    journal_file.write_bytes(journal_file.read_bytes().replace(b'"number": 2', b'"number": 7'))
    with Ledger(tmp_path) as ledger:
        assert [one.path for one in ledger.entries(PATHS)] == PATHS[1:]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with Ledger(tmp_path), pytest.raises(OutputError, match="another run writes there"):
        Ledger(tmp_path)
    with Ledger(tmp_path):
        pass


def test_what_was_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".attnviz" / "cluster").mkdir(parents=True)  # of a driver that was killed
    for name in (
        ".attnviz/cluster/sign",
        ".attnviz/cluster/3",
        ".stats.jsonl.123.part",
        ".attnviz/.journal.jsonl.7.part",
    ):
        (tmp_path / name).touch()
    (tmp_path / "mine.part").touch()
    with Ledger(tmp_path):
        assert set(batches.tree(tmp_path)) == {
            "mine.part",
            ".attnviz/lock",
            ".attnviz/journal.jsonl",
        }
