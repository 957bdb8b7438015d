import json
import math
from pathlib import Path

import numpy as np
import pytest

from attnviz.cli.loading import key_of
from attnviz.errors import AttnvizError
from attnviz.evaluation import metrics_of, parse_groups
from attnviz.evaluation import run as store
from attnviz.evaluation.map_scorer import Score
from attnviz.evaluation.run import Store
from attnviz.evaluation.summary import SummaryEntry, as_data, from_data, summarise


def entry(name: str, *values: float, model: str = "m", layers: int = 1) -> SummaryEntry:
    """A picture with a head, the mean and a Gaussian in each layer; `values` are their AUCs."""
    head, mean, gaussian = values
    scores = []
    for layer in range(layers):
        scores += [
            Score(None, "attention", layer, 0, {"auc": head}),
            Score(None, "attention", layer, "mean", {"auc": mean}),
            Score("gaussian", None, layer, None, {"auc": gaussian}),
            Score("saliency", None, layer, None, {"auc": gaussian + layer}),
        ]
    return SummaryEntry(name, "mask.png", model, "pretrained", tuple(scores))


def test_rows_are_means_over_pictures_with_intervals() -> None:
    entries = [entry("a", 0.2, 0.5, 0.7), entry("b", 0.4, 0.5, math.nan), entry("c", 0.9, 0.5, 0.9)]
    rows = summarise(entries, ["pointing", "auc"])
    found = {row.head or row.baseline or 0: row for row in rows}
    assert [row.pictures for row in rows] == [3, 3, 2, 2]
    assert found[0].metrics["pointing"] is None
    head, mean, gaussian = (found[key].metrics["auc"] for key in (0, "mean", "gaussian"))
    assert head is not None
    assert mean is not None
    assert gaussian is not None
    assert head.mean == pytest.approx(0.5)
    assert (mean.mean, mean.low, mean.high) == (0.5, 0.5, 0.5)
    assert gaussian.mean == pytest.approx(0.8)
    assert head.low < 0.5 < head.high


def test_a_baseline_that_is_the_same_in_all_layers_has_one_row() -> None:
    rows = summarise([entry("a", 0.2, 0.5, 0.7, layers=2)], ["auc"])
    places = [(row.baseline, row.layer) for row in rows if row.method is None]
    assert places == [("gaussian", None), ("saliency", 0), ("saliency", 1)]


def test_models_follow_one_another() -> None:
    entries = [entry("a", 0.2, 0.5, 0.7, model="x"), entry("a", 0.1, 0.3, 0.7, model="y")]
    assert [row.model for row in summarise(entries, ["auc"])] == ["x"] * 4 + ["y"] * 4


def test_an_entry_survives_being_written() -> None:
    one = entry("a", 0.2, math.nan, 1 / 3)
    data = json.loads(json.dumps(as_data(one)))
    again = from_data(data)
    assert as_data(again) == data
    assert math.isnan(again.scores[1].numbers["auc"])
    assert again.scores[2].numbers["auc"] == 0.33333333


def test_a_store_keeps_whole_lines_and_forgets_what_was_broken_off(tmp_path: Path) -> None:
    first = Store(tmp_path / "out")
    first.add("a", entry("a", 0.1, 0.2, 0.3))
    first.add("b", entry("b", 0.1, 0.2, 0.3))
    path = tmp_path / "out" / store.NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    second = Store(tmp_path / "out")
    assert second.get("a") is not None
    assert second.get("b") is None
    second.add("b", entry("b", 0.1, 0.2, 0.3))
    assert path.read_bytes() == whole
    assert second.close(["b"]) == [path]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["b"]


@pytest.mark.parametrize("line", ["", "{}", "[1]", '{"key": "a"}', '{"key": 3, "scores": []}'])
def test_lines_that_are_no_entries_are_left_out(tmp_path: Path, line: str) -> None:
    (tmp_path / store.NAME).write_text(f"{line}\n")
    assert Store(tmp_path).get("a") is None


def test_without_a_folder_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = Store(None)
    kept.add("a", entry("a", 0.1, 0.2, 0.3))
    assert kept.get("a") is not None
    assert kept.close(["a"]) == []
    assert list(tmp_path.iterdir()) == []


def test_keys_change_with_settings_names_and_contents() -> None:
    keys = {
        key_of({"a": 1}, {"x": "1"}), key_of({"a": 2}, {"x": "1"}),
        key_of({"a": 1}, {"y": "1"}), key_of({"a": 1}, {"x": "2"}),
    }  # fmt: skip
    assert len(keys) == 4
    assert key_of({"a": 1, "b": 2}, {}) == key_of({"b": 2, "a": 1}, {})


def test_groups_are_what_masks_allow() -> None:
    assert parse_groups(None, masks=True) == ("masks",)
    assert parse_groups(None, masks=False) == ("perturbation",)
    assert parse_groups("perturbation, masks", masks=True) == ("masks", "perturbation")
    assert metrics_of(("masks",)) == ("pointing", "jaccard60", "jaccard_area", "auc")
    for text, masks in (("masks", False), ("perturbation", True), ("mask", True), ("", False)):
        with pytest.raises(AttnvizError, match="--m"):
            parse_groups(text, masks=masks)


def test_no_number_is_lost_where_a_map_is_in_some_pictures_only() -> None:
    lonely = SummaryEntry("b", None, "m", "pretrained", entry("b", 0.4, 0.6, 0.5).scores[1:])
    rows = summarise([entry("a", 0.2, 0.5, 0.7), lonely], ["auc"])
    assert [row.pictures for row in rows] == [1, 2, 2, 2]
    means = [row.metrics["auc"] for row in rows]
    np.testing.assert_allclose([m.mean for m in means if m], [0.2, 0.55, 0.6, 0.6])
