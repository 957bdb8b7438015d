"""`attnviz evaluate`, from files to numbers."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from PIL import Image

from attnviz.cli import main
from attnviz.evaluation import BASELINES, METRICS
from attnviz.evaluation import run as evaluation

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_images"
SMALL = ["-m", "random", "--size", "48", "--patch", "8", "--heads", "2"]
FILES = ["pictures.jsonl", "evaluation.jsonl", "evaluation.csv", "evaluation.png"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with four pictures and their masks."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("masks").mkdir()
    for i, name in enumerate("abcd"):
        pictures.noise(64, 48, seed=i).save(f"photos/{name}.jpg")
        box = (8 * i, 8, 8 * i + 24, 40)
        pictures.bright_square(64, 48, box).convert("L").point(lambda v: 255 * (v > 128)).save(
            f"masks/{name}.png"
        )
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def runs(*arguments: str) -> tuple[int, str, str]:
        code = main(["evaluate", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return runs


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# What comes out


def test_rows_are_the_means_of_the_pictures(run: Run) -> None:
    code, out, _ = run("photos", "--masks", "masks", *SMALL, "--json", "-o", "out")
    assert code == 0
    rows, entries = objects(out), objects(Path("out/pictures.jsonl").read_text())
    places = [(row["baseline"], row["method"], row["layer"], row["head"]) for row in rows]
    attention = [(None, "attention", 0, head) for head in (0, 1, "mean", "best")]
    trivial = [(name, None, None, None) for name in ("gaussian", "saliency")]
    assert places == [*attention, *trivial]
    assert [Path(entry["image"]).name for entry in entries] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    for row in rows:
        assert (row["schema"], row["model"], row["pictures"]) == (
            "attnviz/evaluation/1", "random", 4,
        )  # fmt: skip
        for name, interval in row["metrics"].items():
            values = [
                score[name]
                for entry in entries
                for score in entry["scores"]
                if (score["baseline"], score["head"]) == (row["baseline"], row["head"])
                and name in score
            ]
            if interval is None:
                assert (row["head"], values) == ("best", [])
                continue
            assert len(values) == 4
            assert interval["mean"] == pytest.approx(np.mean(values))
            assert min(values) <= interval["low"] <= interval["mean"]
            assert interval["mean"] <= interval["high"] <= max(values)


def test_stdout_is_what_is_written(run: Run) -> None:
    everything = ["photos", "--masks", "masks", *SMALL, "-o", "out"]
    assert run(*everything, "--json")[1] == Path("out/evaluation.jsonl").read_text()
    table = run(*everything, "--csv")[1]
    assert table == Path("out/evaluation.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(table)))
    first = objects(Path("out/evaluation.jsonl").read_text())[0]["metrics"]["auc"]
    assert [float(rows[0][name]) for name in ("auc", "auc_low", "auc_high")] == list(first.values())
    assert run(*everything, "--quiet") == (0, "".join(f"out/{name}\n" for name in FILES), "")
    assert sorted(contents("out")) == sorted(FILES)
    Image.open("out/evaluation.png").load()


def test_the_table_is_for_people(run: Run) -> None:
    code, out, err = run("photos", "--masks", "masks", *SMALL)
    assert code == 0
    assert "random  weights: random  4 pictures  masks" in out
    for word in ("pointing", "jaccard60", "jac. area", "auc", "mean", "best", "gaussian", "▲"):
        assert word in out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert err == ("attnviz: note: random: no baseline of random weights, since it has them\n")


def test_the_sample_pictures_have_masks(run: Run) -> None:
    masks = str(SAMPLES / "masks")
    code, out, _ = run(str(SAMPLES), "--masks", masks, *SMALL, "--json")
    assert code == 0
    assert {row["pictures"] for row in objects(out)} == {5}


def test_a_limit_takes_the_first_pictures(run: Run) -> None:
    code, out, _ = run("photos", "--masks", "masks", *SMALL, "--limit", "2", "--json", "-o", "out")
    assert (code, {row["pictures"] for row in objects(out)}) == (0, {2})
    entries = objects(Path("out/pictures.jsonl").read_text())
    assert [entry["image"] for entry in entries] == ["photos/a.jpg", "photos/b.jpg"]


def test_given_weights_have_a_control_of_random_ones(run: Run) -> None:
    for i, name in enumerate("abcd"):  # the object is what is bright
        pictures.bright_square(64, 48, (8 * i, 8, 8 * i + 24, 40)).save(f"photos/{name}.jpg")
    pictures.brightness_layer(Path("bright.safetensors"), patch=8, gain=12)
    command = ["photos", "--masks", "masks", *SMALL, "--weights", "bright.safetensors", "--json"]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    found = {(row["baseline"], row["head"]): row["metrics"] for row in objects(out)}
    assert found[None, "mean"]["auc"]["mean"] == 1
    assert found[None, "mean"]["pointing"]["mean"] == 1
    assert found["random weights", "mean"]["auc"]["mean"] < 1


def test_several_models_follow_one_another(run: Run) -> None:
    Path("net.py").write_text(NET)
    models = ["-m", "random", "-m", "py:net.py:build", "-m", "random"]
    code, out, err = run("photos", "--masks", "masks", *models, "--size", "48", "--json")
    assert code == 0
    assert list(dict.fromkeys(row["model"] for row in objects(out))) == models[1:4:2]
    assert "py:net.py:build: no baseline of random weights, since only its factory" in err


# Perturbation


NET = """
import torch
from torch import nn

class Net(nn.Module):
    patch_size = 8
    def __init__(self, classes):
        super().__init__()
        self.embed, self.classes = nn.Conv2d(3, 8, 8, 8), classes

    def forward(self, pixels):
        x = self.embed(pixels).flatten(2).mT[:, None]
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        right = torch.zeros(len(pixels), 3)
        right[:, 1] = 5
        return right if self.classes else x

def build():
    return Net(True)

def blind():
    return Net(False)
"""


def test_what_is_always_right_has_90(run: Run) -> None:
    Path("net.py").write_text(NET)
    code, out, _ = run("photos", "-m", "py:net.py:build", "--size", "48", "--limit", "1", "--json")
    assert code == 0
    rows = objects(out)
    assert [row["head"] for row in rows] == ["mean", None, None]
    p = np.exp(5) / (np.exp(5) + 2)
    for row in rows:
        means = {name: interval["mean"] for name, interval in row["metrics"].items()}
        assert (means["positive"], means["negative"], means["road"]) == (90, 90, 0)
        assert means["deletion"] == pytest.approx(p)
        assert means["insertion"] == pytest.approx(p)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny ViT with a class head, saved as transformers does."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=48, patch_size=8, num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("models") / "vit"
    model.save_pretrained(path)
    return str(path)


def test_a_vision_transformer_with_masks_and_perturbation(run: Run, vit: str) -> None:
    both = ["--metrics", "masks,perturbation", "--layers", "all", "--limit", "2"]
    code, out, err = run("photos", "--masks", "masks", "-m", vit, *both, "-o", "out")
    assert (code, err) == (0, "")
    assert "weights: pretrained 2 pictures perturbation" in " ".join(out.split())
    rows = objects(Path("out/evaluation.jsonl").read_text())
    means = [row for row in rows if row["head"] == "mean"]
    assert [(row["baseline"], row["layer"]) for row in means] == [
        (None, 0), (None, 1), ("random weights", 0), ("random weights", 1),
    ]  # fmt: skip
    for row in [*means, *rows[-2:]]:
        metrics = {name: interval["mean"] for name, interval in row["metrics"].items()}
        assert all(0 <= metrics[name] <= 1 for name in ("auc", "deletion", "insertion"))
        # The unperturbed picture is what the class is taken from: half a step at least.
        assert all(5 <= metrics[name] <= 90 for name in ("positive", "negative"))
        assert -0.5 <= metrics["road"] <= 0.5
    single = next(row for row in rows if row["head"] == 0)
    assert single["metrics"]["auc"] is not None
    assert single["metrics"]["deletion"] is None


# What goes wrong


def test_a_picture_without_mask_is_told_and_the_rest_is_done(run: Run) -> None:
    Path("masks/b.png").unlink()
    code, out, err = run("photos", "--masks", "masks", *SMALL, "--json")
    assert code == 3
    assert {row["pictures"] for row in objects(out)} == {3}
    told = "attnviz: error: photos/b.jpg: no mask masks/b.png, nor one with another ending; add it"
    assert err.splitlines()[0] == told


def test_a_bad_mask_is_told_and_the_rest_is_done(run: Run) -> None:
    Image.new("L", (64, 48)).save("masks/b.png")
    pictures.noise(64, 48).save("masks/c.png")
    code, out, err = run("photos", "--masks", "masks", *SMALL, "--json", "-o", "out")
    assert code == 3
    assert {row["pictures"] for row in objects(out)} == {2}
    errors = [line for line in err.splitlines() if "error" in line]
    assert "photos/b.jpg: masks/b.png: no object" in errors[0]
    assert "colours, but each colour is an object" in errors[1]
    assert len(errors) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["photos", "--masks", "nowhere"], 2, "nowhere: one file for 4 pictures"),
        (["photos/a.jpg", "--masks", "nowhere"], 1, "nowhere: no such file"),
        (["gone.jpg", "--masks", "masks"], 1, "gone.jpg: no such file"),
        (["gone.jpg"], 1, "gone.jpg: no such file"),
        (["photos", "--masks", "masks", "-m", "random", "--layers", "3"], 2, "has 1 layer"),
        (["photos", "-m", "random"], 1, "random has no class head"),
        (["photos", "-m", "py:net.py:blind"], 1, "its output is 1x1x35x8, not pictures x classes"),
        (["photos", "--metrics", "perturbation,masks"], 2, "say where they are with --masks"),
        (["photos", "--metrics", "maps"], 2, "unknown group 'maps'"),
        (["photos", "--masks", "masks", "--metrics", "perturbation"], 2, "leave out one of them"),
        (["photos", "--masks", "masks", "--quiet"], 2, "--out FOLDER"),
        (["photos", "photos/a.jpg", "--masks", "masks"], 2, "named twice"),
        (["-", "--masks", "masks"], 2, "name a file, not -"),
        (["photos", "--weights", "x.pt", "-m", "random", "-m", "dinov2-small"], 2, "one --model"),
        (["photos", "--masks", "masks", "-o", "net.py"], 1, "net.py: a file is where a folder"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    run: Run, arguments: list[str], code: int, told: str
) -> None:
    Path("net.py").write_text(NET)
    before = sorted(Path().rglob("*.*"))
    found, out, err = run(*arguments, "--size", "48")
    assert (found, out) == (code, "")
    errors = [line for line in err.splitlines() if "note:" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("attnviz: error: ")
    assert told in errors[0]
    assert [path for path in sorted(Path().rglob("*.*")) if path.suffix != ".pyc"] == before


# Going on


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Break off before the picture of a number; the list has those that were begun."""
    begun: list[str] = []
    real = evaluation.examine

    def examined(pair: Any, *rest: Any) -> Any:
        if len(begun) == number:
            raise RuntimeError("killed")
        begun.append(pair.image)
        return real(pair, *rest)

    monkeypatch.setattr(evaluation, "examine", examined)
    return begun


def test_a_run_that_was_broken_off_goes_on_and_ends_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["photos", "--masks", "masks", *SMALL, "-o"]
    assert run(*command, "whole")[0] == 0
    with monkeypatch.context() as killed:
        stop_at(2, killed)
        code, _, err = run(*command, "out")
    assert (code, list(contents("out"))) == (1, ["pictures.jsonl"])
    assert "killed" in err
    with Path("out/pictures.jsonl").open("ab") as file:
        file.write(b'{"key": "half of a li')
    begun = stop_at(99, monkeypatch)
    assert run(*command, "out")[0] == 0
    assert begun == ["photos/c.jpg", "photos/d.jpg"]
    assert contents("out") == contents("whole")


def test_what_is_done_needs_no_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["photos", "--masks", "masks", *SMALL, "-o", "out"]
    run(*command)
    before = contents("out")
    begun = stop_at(0, monkeypatch)
    monkeypatch.setattr("attnviz.models.load_model", None)
    assert run(*command)[0] == 0
    assert (begun, contents("out")) == ([], before)


@pytest.mark.parametrize(
    "change",
    [["--seed", "1"], ["--query", "20,20"], ["--fit", "crop"], ["--patch", "16"], ["--heads", "1"]],
)
def test_a_changed_setting_does_all_again(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: list[str]
) -> None:
    command = ["photos", "--masks", "masks", *SMALL, "-o", "out"]
    run(*command)
    begun = stop_at(99, monkeypatch)
    if change[0] in command:  # an option is given once
        command[command.index(change[0]) + 1] = change[1]
    else:
        command += change
    assert run(*command)[0] == 0
    assert len(begun) == 4
    assert len(objects(Path("out/pictures.jsonl").read_text())) == 4


def test_a_changed_picture_or_mask_is_done_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["photos", "--masks", "masks", *SMALL, "-o", "out"]
    run(*command)
    pictures.noise(64, 48, seed=9).save("photos/a.jpg")
    Image.new("L", (64, 48), 255).save("masks/c.png")
    begun = stop_at(99, monkeypatch)
    assert run(*command)[0] == 0
    assert begun == ["photos/a.jpg", "photos/c.jpg"]


def test_another_model_is_added_without_doing_the_first_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("net.py").write_text(NET)
    command = ["photos", "--masks", "masks", "--size", "48", "-o", "out", "-m", "random"]
    run(*command)
    begun = stop_at(99, monkeypatch)
    assert run(*command, "-m", "py:net.py:build")[0] == 0
    assert len(begun) == 4
    assert len(objects(Path("out/pictures.jsonl").read_text())) == 8


# The documentation


def test_a_row_is_documented_field_by_field(run: Run) -> None:
    page = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    found = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert found is not None
    documented = json.loads(found[1])
    _, out, _ = run(str(SAMPLES), "--masks", str(SAMPLES / "masks"), "-m", "random", "--json")
    real = next(row for row in objects(out) if row["head"] == "mean")
    for name, interval in documented["metrics"].items():
        assert interval == pytest.approx(real["metrics"].pop(name), abs=1e-3)
    assert {**documented, "metrics": {}} == real
    assert list(documented) == list(real)
    assert all(f"`{field}`" in page for field in real)


@pytest.mark.parametrize("name", [*METRICS, *BASELINES])
def test_every_number_and_baseline_has_a_formula(name: str) -> None:
    for page in ("formulas.md", "evaluate.md"):
        assert f"`{name}`" in (ROOT / "docs" / page).read_text(encoding="utf-8")
    if name in METRICS:
        assert METRICS[name].summary
        assert METRICS[name].reference
