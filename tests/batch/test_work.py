"""A group of pictures from files to files, as an engine of another kind would have it done."""

import pickle
from pathlib import Path

import batches
import pytest

import attnviz
from attnviz.batch import local
from attnviz.batch.jobs import Job, Settings
from attnviz.batch.local import most
from attnviz.batch.work import do
from attnviz.explanation.request import Questions
from attnviz.geometry.grid import TokenGrid
from attnviz.output.write_pictures import Drawing


def test_jobs_and_outcomes_can_be_sent_elsewhere(tmp_path: Path) -> None:
    paths = batches.photos(tmp_path / "photos", 6)
    (tmp_path / "photos" / "bad.png").write_text("no")
    named = [*paths[:3], tmp_path / "photos" / "bad.png"]
    jobs = [Job(str(path), f"{number}/{path.name}") for number, path in enumerate(named)]
    model = attnviz.load_model("random", size=32, heads=2)
    settings = Settings(Questions(), Drawing(), "digest")
    sent = pickle.loads(pickle.dumps((jobs, settings)))
    outcomes = pickle.loads(pickle.dumps(do(sent[0], model, sent[1], tmp_path / "out")))
    assert [one.entry.path for one in outcomes] == [job.path for job in jobs]
    assert [one.entry.status for one in outcomes] == ["done"] * 3 + ["failed"]
    for one in outcomes[:3]:
        assert one.entry.is_there(tmp_path / "out")
        assert len(one.records) == 1
        assert one.records[0].image.path == one.entry.path
    assert "not a picture" in str(outcomes[3].entry.error)


def test_how_many_run_together_is_a_matter_of_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attnviz.load_model("random", size=32, heads=2)
    grid = TokenGrid(10, 10, 16)
    assert most(model, grid, 5) == 5
    assert most(model, grid, None) == local.CPU
    monkeypatch.setattr("attnviz.models.memory.total", lambda _: 4 * 8 * 300 * model.token_bytes)
    assert most(model, grid, None) == 3
    monkeypatch.setattr("attnviz.models.memory.total", lambda _: 1)
    assert most(model, grid, None) == 1
