"""Localized heads of a batch differ from picture to picture: they are summed up by their rank."""

import json
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
from batches import photos

from attnviz.batch.aggregate import aggregate
from attnviz.batch.aggregate_plot import draw
from attnviz.batch.columns import columns
from attnviz.batch.entries import read_entries
from attnviz.batch.gallery import data_of
from attnviz.cli import main
from attnviz.cli.summary_tables import aggregate_tables

OPTIONS = ("-m", "tiny", "--size", "48", "--heads", "localized:2", "--quiet")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("localized")
    photos(folder / "photos", 6)
    line = ["batch", str(folder / "photos"), "-o", str(folder / "out"), "--aggregate", *OPTIONS]
    line += ["--pictures", "heads"]
    assert main([*line, "-q", "cls", "-q", "mean"]) == 0
    return folder / "out"


def entries(out: Path) -> list[dict[str, Any]]:
    text = (out / "stats.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_row_for_each_rank_and_for_the_mean(out: Path) -> None:
    found = aggregate(out / "stats.jsonl")
    places = [(row.question, row.layer, row.head, row.rank) for row in found.rows]
    assert places == [(q, None, None, rank) for q in (0, 1) for rank in (0, 1, 2)]
    records = entries(out)
    chosen = {
        (head["layer"], head["head"]) for record in records for head in record["heads"]
        if head["rank"]
    }  # fmt: skip
    assert len(chosen) > 2  # pictures differ
    for row in found.rows:
        of_rank = [
            [head for head in record["heads"] if head["rank"] == row.rank][row.question]
            for record in records
        ]
        assert row.pictures == len(of_rank) == 6
        area = row.statistics["map_area60"]
        assert area is not None
        assert area.mean == pytest.approx(np.mean([head["map"]["area60"] for head in of_rank]))
        entropy = row.statistics["entropy"]
        if row.rank:
            assert entropy is not None
            assert entropy.mean == pytest.approx(np.mean([head["entropy"] for head in of_rank]))
        else:
            assert entropy is None  # the mean map has no head
    draw(found.rows)
    tables = aggregate_tables(found)
    assert list(tables[0].columns[0].cells) == ["localized"] * 3
    assert list(tables[0].columns[1].cells) == ["mean", "no. 1", "no. 2"]


def test_ranks_are_the_order_of_the_record(out: Path) -> None:
    for record in entries(out):
        for question in (0, 1):
            heads = record["heads"][3 * question : 3 * question + 3]
            assert [head["rank"] for head in heads] == [1, 2, 0]
            listed = [each for each in record["localized"] if each["question"] == question]
            named = [(each["layer"], each["head"]) for each in listed]
            assert [(head["layer"], head["head"]) for head in heads[:2]] == named
    assert columns()["rank"] is int


def test_the_gallery_has_localized_heads_by_rank_and_draws_their_mean(out: Path) -> None:
    found = read_entries(out, out / "stats.jsonl", out / "manifest.jsonl")
    data = data_of(out, found)
    names = [name for name, _ in data["statistics"]]
    place = {
        (layer, head): values
        for i, layer, head, values in data["columns"]
        if names[i] == "map_area60"
    }
    assert set(place) == {(-1, None), (-1, 0), (-1, 1), (-1, 2)}
    of = {rank: [h["map"]["area60"] for h in entries(out)[0]["heads"] if h["rank"] == rank]
          for rank in (0, 1, 2)}  # fmt: skip
    first = data["pictures"].index(
        next(p for p in data["pictures"] if p[0] == Path(entries(out)[0]["image"]["path"]).name)
    )
    for rank, values in of.items():
        assert place[-1, rank][first] == pytest.approx(np.mean(values), rel=1e-3)
    both = np.mean([of[1], of[2]])
    assert place[-1, None][first] == pytest.approx(both, rel=1e-3)
    assert {Path(str(path)).stem.split("-")[0] for path in found.overlays} == {"localized"}
    assert data["run"][-1] == "localized heads"


def test_other_rows_have_no_rank(tmp_path: Path) -> None:
    records = list(folders.several(["a.png", "b.png"]))
    rows = aggregate(folders.stats(tmp_path, records)).rows
    assert {row.rank for row in rows} == {None}
    assert "rank" not in records[0].data()["heads"][0]
