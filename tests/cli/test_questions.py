"""Every question from the command line: files, records, and what cannot be asked."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnviz.cli import main
from attnviz.methods import METHODS

CAT = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")
NUMBERS = {"sheet.png", "stats.json", "stats.csv"}


def shown(folder: Path, *options: str) -> tuple[set[str], dict[str, Any]]:
    """The files that `show` leaves, and its record."""
    assert main(["show", CAT, "--size", "32", "-o", str(folder), "--quiet", *options]) == 0
    folder = folder / "cat.jpg"
    record: dict[str, Any] = json.loads((folder / "stats.json").read_text())
    return {path.name for path in folder.iterdir()} - NUMBERS, record


def stats(capfd: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["stats", CAT, "--size", "32", "--json", *options]) == 0
    record: dict[str, Any] = json.loads(capfd.readouterr().out)
    return record


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_is_drawn_under_its_name(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names, record = shown(tmp_path, "--method", method)
    capfd.readouterr()
    entry = METHODS[method]
    expected = {
        "nothing": {f"layer05-head{head:02d}.png" for head in range(8)},
        "heads": {"layer05.png"},
        "layers": {f"{method}.png"},
    }[entry.merges]
    blended = {blend["file"] for blend in record.get("blends", ())}
    if entry.components:
        count = 3 if method == "pca" else 5
        expected = {f"layer05-component{part:02d}.png" for part in range(1, count + 1)}
        assert blended == {"layer05-colours.png"}
    assert names == expected | blended
    assert {head["file"] for head in record["heads"]} == expected
    for name in names | {"sheet.png"}:
        with Image.open(tmp_path / "cat.jpg" / name) as image:
            assert name == "sheet.png" or image.size == (480, 320)
    merged = entry.merges != "nothing"
    assert all((head["head"] is None) == merged for head in record["heads"])
    assert all((head["entropy"] is None) == merged for head in record["heads"])
    assert ("target" in record) == entry.scored
    assert record.get("options", {}).keys() == set(entry.settings)


def test_several_questions_have_files_of_their_own(tmp_path: Path) -> None:
    names, record = shown(tmp_path, "-q", "20,20", "-q", "cls", "--heads", "2")
    assert names == {f"layer05-head0{h}-query{q}.png" for h in (0, 1) for q in (0, 1)}
    assert [head["query"]["kind"] for head in record["heads"]] == ["point"] * 2 + ["cls"] * 2
    names, record = shown(
        tmp_path, "--method", "relevance", "-q", "20,20", "-q", "cls", "--target", "mammal",
        "--target", "5",
    )  # fmt: skip
    assert names == {f"relevance-query{q}-target{t}.png" for q in (0, 1) for t in (0, 1)}
    assert [head["target"]["label"] for head in record["heads"]] == ["mammal", "flower"] * 2
    names, _ = shown(tmp_path, "--method", "rollout", "--layers", "1,5")
    assert names == {"layer01.png", "layer05.png"}


def test_arrays_of_several_questions_have_them_in_front(tmp_path: Path) -> None:
    shown(tmp_path, "--npz", "-q", "20,20", "-q", "cls", "--layers", "4,5", "--heads", "3")
    arrays = np.load(tmp_path / "cat.jpg" / "maps.npz")
    assert arrays["maps"].shape == (2, 2, 3, 3, 5)
    assert arrays["queries"].tolist() == ["20,20", "cls"]
    assert arrays["heads"].tolist() == [0, 1, 2]
    shown(tmp_path, "--npz", "--method", "relevance", "--target", "1", "--target", "2")
    arrays = np.load(tmp_path / "cat.jpg" / "maps.npz")
    assert arrays["maps"].shape == (2, 1, 1, 3, 5)
    assert arrays["targets"].tolist() == ["1", "2"]
    assert arrays["heads"].tolist() == [-1]


def test_the_record_says_what_the_score_is_of(capfd: pytest.CaptureFixture[str]) -> None:
    target = stats(capfd, "--method", "legrad", "--target", "mammal")["target"]
    assert target.keys() == {"kind", "index", "label", "score", "probability"}
    assert (target["kind"], target["index"], target["label"]) == ("class", 0, "mammal")
    assert 0 < target["probability"] < 1
    predicted = stats(capfd, "--method", "relevance")["target"]
    assert predicted["probability"] >= 1 / 21
    norm = stats(capfd, "--method", "relevance", "--target", "norm")["target"]
    assert norm.keys() == {"kind", "score"}
    headless = stats(capfd, "--method", "relevance", "-m", "random")["target"]
    assert headless["kind"] == "norm"


def test_options_of_a_method_change_what_it_says_and_are_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    plain = stats(capfd, "--method", "rollout")
    assert plain["options"] == {"fusion": "mean", "discard": 0.0, "start_layer": 0}
    for options, said in (
        (["--fusion", "max"], {"fusion": "max"}),
        (["--discard", "0.9"], {"discard": 0.9}),
        (["--start-layer", "3"], {"start_layer": 3}),
    ):
        other = stats(capfd, "--method", "rollout", *options)
        assert other["options"] == plain["options"] | said
        assert other["heads"][0]["map"] != plain["heads"][0]["map"]
    few, many = (stats(capfd, "--method", "mass", "--keep", keep) for keep in ("0.3", "0.9"))
    assert few["heads"][0]["map"]["area60"] < many["heads"][0]["map"]["area60"]


def test_more_statistics_are_in_the_record_behind_an_option(
    capfd: pytest.CaptureFixture[str],
) -> None:
    basic = stats(capfd)
    assert "layers" not in basic
    assert "sinks" not in basic["heads"][0]
    full = stats(capfd, "--stats", "all", "--target", "auto", "--layers", "4,5")
    assert [layer["layer"] for layer in full["layers"]] == [4, 5]
    for layer in full["layers"]:
        assert np.allclose(np.diag(layer["cosine"]), 1)
        assert np.allclose(np.diag(layer["jensen_shannon"]), 0)
        assert layer["norm_limit"] >= 1.999999 * layer["norm_median"]  # both are rounded
    for head in full["heads"]:
        assert head["importance"] > 0
        assert head["value_distance_px"] > 0
    assert full["target"]["kind"] == "class"
    main(["stats", CAT, "--size", "32", "--csv", "--stats", "all"])
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert float(rows[0]["head_cosine"]) == pytest.approx(
        stats(capfd, "--stats", "all")["heads"][0]["head_cosine"]
    )
    assert rows[0]["importance"] == ""


def test_the_tables_name_what_differs(capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["-q", "20,20", "-q", "register1", "--method", "relevance", "--target", "mammal"]
    assert main(["stats", CAT, "--size", "32", *asked]) == 0
    said = capfd.readouterr().out
    assert "20,20" in said
    assert "register1" in said
    assert "mammal" in said
    assert main(["stats", CAT, "--size", "32", "--stats", "all", "--target", "auto"]) == 0
    said = capfd.readouterr().out
    assert "importance" in said
    assert "cosine" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fusion", "max"], "--method rollout"),
        (["--keep", "0.5"], "--method mass"),
        (["--start-layer", "1"], "is for rollout"),
        (["--target", "1"], "--method gradient-attention"),
        (["--text", "a cat"], "--method gradient-attention"),
        (["--method", "relevance", "--target", "1", "--text", "a cat"], "exclude one another"),
        (["--method", "relevance", "--target", "99"], "21 classes"),
        (["--method", "relevance", "--target", "cow"], "mammal"),
        (["--method", "received", "-q", "cls"], "from all tokens alike"),
        (["--method", "rollout", "--heads", "2"], "merges all heads"),
        (["--method", "rollout", "--start-layer", "5", "--layers", "3"], "behind layer 3"),
        (["--method", "rollout", "--discard", "1"], "--discard"),
        (["-q", "register4"], "register0 to register3"),
        (["-q", "register"], "registerN"),
        (["-m", "random", "-q", "register0"], "no register"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    options: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", CAT, "--size", "32", *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert words in err


def test_a_model_without_a_text_tower_says_which_have_one(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["stats", CAT, "--method", "relevance", "--text", "a cat"]) == 1
    err = capfd.readouterr().err
    assert "tiny has no text tower" in err
    assert "clip-base-16" in err


@pytest.mark.parametrize("method", ["rollout", "relevance", "legrad"])
def test_merged_maps_are_evaluated_once(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    mask = str(Path(CAT).parent / "masks" / "cat.png")
    asked = ["--masks", mask, "--size", "48", "--method", method, "--target", "mammal"]
    if method == "rollout":
        asked = asked[:-2]
    assert main(["evaluate", CAT, "--json", *asked]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    own = [row for row in rows if row["baseline"] is None]
    assert [(row["method"], row["layer"], row["head"]) for row in own] == [(method, 5, None)]
    assert {row["baseline"] for row in rows} == {None, "random weights", "gaussian", "saliency"}


def test_evaluate_asks_one_question(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", CAT, "-q", "cls", "-q", "mean"]) == 2
    assert "one --query" in capfd.readouterr().err
