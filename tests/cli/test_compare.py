"""`attnviz compare`, from files to numbers."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest

import attnviz
from attnviz.cli import main

ROOT = Path(__file__).parents[2]
CAT = ROOT / "sample_images" / "cat.jpg"
SMALL = ["-m", "random", "--size", "48", "--patch", "8", "--heads", "2"]
WEIGHTS = ["--weights", "a.safetensors", "--weights", "b.safetensors"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and two layers."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("one.png", "two.png")):
        pictures.noise(64, 48, seed=i).save(name)
    pictures.brightness_layer(Path("a.safetensors"), patch=8, gain=12)
    pictures.brightness_layer(Path("b.safetensors"), patch=8, gain=-12)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def runs(*arguments: str) -> tuple[int, str, str]:
        code = main(["compare", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return runs


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def files(folder: str = "attnviz-out/one.png") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# What is compared


def test_checkpoints_of_one_layer(run: Run) -> None:
    """What looks at the bright and what looks at the dark order the cells the other way round."""
    code, out, err = run("one.png", *SMALL, *WEIGHTS, "--json")
    assert (code, err) == (0, "")
    (record,) = objects(out)
    assert record["schema"] == "attnviz/compare/1"
    assert [side["name"] for side in record["sides"]] == WEIGHTS[1::2]
    assert record["pairs"][0]["spearman"] < -0.9
    assert record["pairs"][0]["cells"] == 35


def test_a_model_and_its_control(run: Run) -> None:
    code, out, err = run("one.png", *SMALL, *WEIGHTS[:2], "--random-weights", "--json")
    assert (code, err) == (0, "")
    (record,) = objects(out)
    assert [side["model"]["weights"] for side in record["sides"]] == ["a.safetensors", "random"]
    assert [side["model"]["features"] for side in record["sides"]] == [64, 64]
    assert abs(record["pairs"][0]["spearman"]) < 0.9


def test_sides_are_models_and_controls_then_methods_questions_and_layers(run: Run) -> None:
    models = ["-m", "tiny", "-m", "random", "--random-weights", "--size", "48"]
    asked = ["--method", "attention", "--method", "rollout", "--layers", "0,-1"]
    code, out, err = run("one.png", *models, *asked, "--json")
    assert code == 0
    assert "random: no side of random weights, since it has them" in err
    (record,) = objects(out)
    sides = [
        (side["model"]["spec"], side["model"]["weights"], side["method"], side["layer"])
        for side in record["sides"]
    ]
    tiny = [
        ("tiny", weights, method, layer)
        for weights in ("pretrained", "random")
        for method in ("attention", "rollout")
        for layer in (0, 5)
    ]
    assert sides == [*tiny, *(("random", "random", m, 0) for m in ("attention", "rollout"))]
    pairs = [(pair["first"], pair["second"]) for pair in record["pairs"]]
    assert pairs == [(i, j) for i in range(10) for j in range(i + 1, 10)]
    assert [pair["file"] for pair in record["pairs"] if pair["first"] == 0] == [
        f"difference-{number}.png" for number in range(1, 10)
    ]
    assert all("file" not in pair for pair in record["pairs"] if pair["first"] > 0)


def test_queries_and_all_layers(run: Run) -> None:
    code, out, _ = run("one.png", *SMALL, "--query", "10,10", "--query", "mean", "--json")
    assert code == 0
    kinds = [side["query"]["kind"] for side in objects(out)[0]["sides"]]
    assert kinds == ["point", "mean"]
    code, out, _ = run("one.png", "--size", "48", "--layers", "all", "--json")
    assert [side["layer"] for side in objects(out)[0]["sides"]] == list(range(6))


def test_numbers_are_pythons(run: Run) -> None:
    _, out, _ = run("one.png", *SMALL, *WEIGHTS, "--fit", "crop", "--json")
    picture = attnviz.load_image("one.png")
    found = []
    for weights in WEIGHTS[1::2]:
        model = attnviz.load_model("random", heads=2, size=48, patch=8, weights=weights)
        found.append(attnviz.explain(attnviz.observe(picture, model, fit="crop")))
    numbers = attnviz.compare(*found).pairs[0, 1]
    (pair,) = objects(out)[0]["pairs"]
    assert {name: pair[name] for name in numbers} == pytest.approx(numbers)


# What comes out


def test_stdout_is_what_is_written(run: Run) -> None:
    command = ["one.png", *SMALL, *WEIGHTS]
    assert objects(run(*command, "--json")[1]) == [
        json.loads(Path("attnviz-out/one.png/compare.json").read_text())
    ]
    assert run(*command, "--csv")[1] == Path("attnviz-out/one.png/compare.csv").read_text()
    paths = run(*command, "--quiet", "--npz")[1].splitlines()
    assert sorted(Path(path).name for path in paths) == files()
    assert "compare.npz" in files()
    with np.load("attnviz-out/one.png/compare.npz") as arrays:
        assert arrays["maps"].shape == (2, 5, 7)


def test_rows_of_several_pictures_have_one_header(run: Run) -> None:
    code, out, _ = run("one.png", "two.png", *SMALL, *WEIGHTS, "--csv")
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["image"] for row in rows] == ["one.png", "two.png"]
    assert rows[0]["first_name"] == "a.safetensors"


def test_the_tables_are_for_people(run: Run) -> None:
    code, out, err = run("one.png", *SMALL, *WEIGHTS, "--random-weights")
    assert (code, err) == (0, "")
    for word in ("64x48", "a.safetensors", "random weights", "7x5", "ρ of all pairs", "verified"):
        assert word in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "all pairs" not in run("one.png", *SMALL, *WEIGHTS)[1]


def test_running_it_again_replaces_its_own_files_alone(run: Run) -> None:
    main(["show", "one.png", *SMALL, "--quiet"])
    shown = files()
    run("one.png", *SMALL, *WEIGHTS, "--random-weights", "--npz")
    run("one.png", *SMALL, *WEIGHTS)
    own = ["compare-0.png", "compare-1.png", "compare.csv", "compare.json", "compare.png"]
    assert files() == sorted([*shown, *own, "difference-1.png"])
    main(["show", "one.png", *SMALL, "--heads", "1", "--quiet"])
    assert set(own) < set(files())


def test_standard_input_is_read_once(desk: Path) -> None:
    command = [sys.executable, "-m", "attnviz", "compare", "-", *SMALL, *WEIGHTS, "--quiet"]
    with Path("one.png").open("rb") as stdin:
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (desk / "attnviz-out" / "stdin" / "compare.png").is_file()


# What goes wrong


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "one side alone"),
        (["-m", "random", "-m", "random"], "add --random-weights"),
        (["-m", "random", "--random-weights"], "one side alone"),
        (["--layers", "0-5", "--random-weights", "--query", "cls", "-q", "mean"], "24 sides are"),
        (["--method", "received", "-q", "cls", "-q", "mean"], "looks from all tokens alike"),
        (["-m", "tiny", "-m", "random", "--weights", "a.pt"], "give one --model"),
        (["-m", "random", "--layers", "0,0"], "one side alone"),
        (["-m", "random", "--layers", "0,-1"], "one side alone"),
        (["-m", "random", "--layers", "all"], "one side alone"),
        (["--random-weights", "--diverging", "Rosy"], "--diverging: unknown colour map 'Rosy'"),
        (["--random-weights", "--layers", "9"], "has 6 layers"),
        (["--random-weights", "--query", "500,500"], "lies outside the picture"),
    ],
)
def test_a_slip_is_told_in_a_line(run: Run, arguments: list[str], told: str) -> None:
    code, out, err = run("one.png", *arguments)
    assert (code, out) == (2, "")
    assert told in err.splitlines()[-1]
    assert not Path("attnviz-out").exists()


def test_too_many_layers_are_told_when_they_are_known(run: Run) -> None:
    asked = ["--layers", "all", "-q", "cls", "-q", "mean", "-q", "10,10", "--size", "48"]
    code, _, err = run("one.png", *asked)
    assert code == 2
    assert "18 sides are more than the 12" in err


def test_a_bad_picture_is_told_once_and_the_rest_is_done(run: Run) -> None:
    Path("bad.png").write_bytes(b"no picture")
    code, out, err = run("bad.png", "gone.png", "one.png", *SMALL, *WEIGHTS, "--json")
    assert code == 3
    assert [record["image"]["path"] for record in objects(out)] == ["one.png"]
    assert [line.split(":")[2].strip() for line in err.splitlines()] == ["bad.png", "gone.png"]


def test_without_any_picture_no_model_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnviz.models.load_model", None)
    code, out, err = run("gone.png", *SMALL, *WEIGHTS)
    assert (code, out) == (1, "")
    assert "gone.png: no such file" in err


def test_a_question_that_one_picture_cannot_be_asked_leaves_the_others(run: Run) -> None:
    pictures.noise(200, 150).save("large.png")
    code, out, err = run("one.png", "large.png", *SMALL, *WEIGHTS, "-q", "150,100", "--json")
    assert code == 3
    assert [record["image"]["path"] for record in objects(out)] == ["large.png"]
    assert len(err.splitlines()) == 1


# The documentation


def test_the_record_is_documented_field_by_field(run: Run) -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    found = re.search(r"```json\n(\{\"schema\": \"attnviz/compare/1\".*?)```", page, re.DOTALL)
    assert found is not None
    documented = json.loads(found[1])
    code, out, _ = run(str(CAT), "--random-weights", "--json")
    assert code == 0
    (real,) = objects(out)
    for part in ("sides", "pairs"):
        assert [list(entry) for entry in documented[part]] == [list(entry) for entry in real[part]]
    for wrote, is_ in zip(documented["pairs"], real["pairs"], strict=True):
        assert wrote == pytest.approx(is_, abs=1e-2)
    assert list(documented) == list(real)


@pytest.mark.parametrize("name", ["spearman", "pearson", "jaccard60"])
def test_every_number_has_a_formula(name: str) -> None:
    formulas = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
    section = formulas.split("## Comparison")[1].split("\n## ")[0]
    assert f"| `{name}` |" in section
