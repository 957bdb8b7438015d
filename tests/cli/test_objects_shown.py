"""Objects of a detector on the command line."""

import json
from pathlib import Path

import detectors
import films
import jsonschema
import numpy as np
import pictures
import pytest
from page_decoder import Decoded
from PIL import Image

import attnviz
from attnviz.cli import main

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    detectors.save(transformers, "RT-DETR", folder / "model")
    (folder / "pictures").mkdir()
    for number, size in enumerate([(96, 64), (60, 120)]):
        pictures.noise(*size).save(folder / "pictures" / f"{number}.png")
    return folder


def scores(folder: Path, capfd: pytest.CaptureFixture[str], picture: str) -> list[float]:
    """Scores of all objects, as the record has them."""
    arguments = ["-m", str(folder / "model"), "-q", "objects", "--threshold", "0", "--json"]
    assert main(["stats", str(folder / "pictures" / picture), *arguments]) == 0
    heads = json.loads(capfd.readouterr().out)["heads"]
    return [head["query"]["score"] for head in heads[::4]]


def test_boxes_are_drawn_and_rows_name_their_object(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture, model = str(folder / "pictures" / "0.png"), ["-m", str(folder / "model")]
    found = scores(folder, capfd, "0.png")
    assert len(found) == 5
    assert found == sorted(found, reverse=True)
    limit = ["--threshold", str((found[1] + found[2]) / 2)]
    assert main(["show", picture, *model, *limit, "-o", str(tmp_path), "--no-preview"]) == 0
    text = capfd.readouterr().out
    assert "in object" in text
    written = json.loads((tmp_path / "0.png" / "stats.json").read_text())
    assert main(["schema"]) == 0
    jsonschema.validate(written, json.loads(capfd.readouterr().out))
    first, *_ = written["heads"]
    assert first["query"]["score"] == pytest.approx(found[0])
    assert {"object_mass", "object_distance", "object_peak_distance"} <= first["map"].keys()
    rows = (tmp_path / "0.png" / "stats.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4
    assert {"query_index", "query_label", "query_score", "query_x0"} <= {*rows[0].split(",")}
    # The box is drawn in white on black, where the record says.
    overlay = np.asarray(Image.open(tmp_path / "0.png" / first["file"]))
    plain = tmp_path / "plain"
    assert main(["show", picture, *model, "-q", "pool", "-o", str(plain), "--quiet"]) == 0
    without = np.asarray(Image.open(next(plain.glob("0.png/*head00.png"))))
    left, right = (min(max(round(first["query"][name]), 0), 95) for name in ("x0", "x1"))
    top, bottom = (min(max(round(first["query"][name]), 0), 63) for name in ("y0", "y1"))
    assert overlay.shape == without.shape
    edge = overlay[top : bottom + 1, [left, right]].reshape(-1, 3)
    assert (edge == 255).all(1).mean() + (edge == 0).all(1).mean() > 0.5
    assert (without[top : bottom + 1, [left, right]] == 255).all(-1).mean() < 0.1


def test_each_picture_of_a_batch_has_objects_of_its_own(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ["-m", str(folder / "model")]
    best = [max(scores(folder, capfd, name)) for name in ("0.png", "1.png")]
    out = ["-o", str(tmp_path / "out"), "--aggregate"]
    assert main(["batch", str(folder / "pictures"), *model, *out, "--threshold", "1"]) == 0
    lines = (tmp_path / "out" / "stats.jsonl").read_text().splitlines()
    found = [json.loads(line)["query"] for line in lines]
    assert [query["score"] for query in found] == pytest.approx(best, abs=1e-4)
    assert all(query["kind"] == "object" for query in found)
    lines = (tmp_path / "out" / "aggregate.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert rows
    assert all("map_object_mass" in row["statistics"] for row in rows)
    compared = ["-o", str(tmp_path / "compared"), "--json"]
    picture = str(folder / "pictures" / "0.png")
    capfd.readouterr()
    assert main(["compare", picture, *model, "-m", "tiny", *compared]) == 0
    sides = json.loads(capfd.readouterr().out)["sides"]
    assert [side["query"]["kind"] for side in sides] == ["object", "cls"]
    assert "object_mass" in sides[0]["map"]
    assert "object_mass" not in sides[1]["map"]


def test_a_batch_goes_on_after_pictures_without_such_an_object(
    folder: Path, tmp_path: Path
) -> None:
    model, out = ["-m", str(folder / "model")], ["-o", str(tmp_path / "out"), "--pictures", "none"]
    assert main(["batch", str(folder / "pictures"), *model, *out, "-q", "object:fox"]) == 1
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    errors = [json.loads(line)["error"] for line in lines]
    assert len(errors) == 2  # not one, after which the run gives up
    assert all("no object over 0.5 has this label" in error for error in errors)


def test_each_frame_of_a_clip_has_an_object_of_its_own(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def noise(number: int) -> films.Pixels:
        return np.asarray(pictures.noise(96, 64, seed=number))

    clip = films.make_clip(tmp_path / "clip.mp4", 3, draw=noise)
    out = ["-o", str(tmp_path / "film.mp4"), "--json"]
    assert main(["video", str(clip), "-m", str(folder / "model"), *out]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    queries = [record["heads"][0].get("query", record["query"]) for record in records]
    assert len(queries) == 3
    assert {query["kind"] for query in queries} == {"object"}
    assert len({(query["index"], query["x0"]) for query in queries}) == 3


WRONG = {
    "object:fox": ("-q object:fox --threshold 0", "no object over 0 has this label; there are"),
    "object:999": ("-q object:999", "this model has 5 object queries, object:0 to object:4"),
    "threshold": ("--threshold 1.5", "--threshold 1.5 is no score: give 0 to 1"),
    "nothing": ("-q object:", "'object:' names nothing; give object:3 or object:cat"),
    "tiles": ("-q objects --tile 64", "each tile has objects of its own; leave out --tile"),
    "tiles, auto": ("--tile 64", "each tile has objects of its own; leave out --tile"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_asked_is_told_in_one_line(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, line = WRONG[name]
    picture = str(folder / "pictures" / "0.png")
    assert main(["stats", picture, "-m", str(folder / "model"), *arguments.split()]) in (1, 2)
    errors = [text for text in capfd.readouterr().err.splitlines() if "error" in text]
    assert len(errors) == 1
    assert line in errors[0]


def test_a_model_without_object_queries_is_told(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    picture = str(folder / "pictures" / "0.png")
    assert main(["stats", picture, "-m", "tiny", "-q", "objects"]) == 2
    assert "this model predicts no objects; give a detector" in capfd.readouterr().err
    for command in ("compare", "evaluate"):
        model = ["-m", str(folder / "model"), "-m", "tiny"]
        assert main([command, picture, *model, "-q", "objects"]) == 2
        assert f"{command} takes one object for each map" in capfd.readouterr().err


def test_a_page_names_object_queries_and_opens_on_the_best_of_a_label(tmp_path: Path) -> None:
    model = detectors.save(transformers, "DETR", tmp_path / "model")
    pictures.noise(96, 64).save(tmp_path / "noise.png")
    assert model.config.id2label == detectors.LABELS
    seen = attnviz.observe(
        attnviz.load_image(tmp_path / "noise.png"), attnviz.load_model(str(tmp_path / "model"))
    )
    best = max(seen.objects, key=lambda one: one.score)
    page = Decoded(attnviz.explore(seen, query=f"object:{best.label}").html)
    assert page.about["start"]["query"] == {"kind": "prefix", "index": best.index}
    named = [f"object {one.index}: {one}" for one in seen.objects]
    assert page.layers[5]["queries"]["prefix"] == named
