import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import explored
import numpy as np
import pytest
import torch

import attnviz
from attnviz.cli import main
from attnviz.drawing import sheet
from attnviz.errors import UsageError
from attnviz.explanation.explain_observation import suggest_heads
from attnviz.explanation.explanation import Answer
from attnviz.explanation.localized_heads import choose_localized, mean_of
from attnviz.explanation.observation import Observation
from attnviz.geometry import queries
from attnviz.geometry.placement import place
from attnviz.output.make_record import make_record

CAT = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")


@pytest.fixture(scope="module")
def seen() -> Observation:
    model = attnviz.load_model("tiny", size=64)
    return attnviz.observe(attnviz.load_image(CAT), model)


def score(values: np.ndarray[Any, Any]) -> float:
    """Spatial entropy + 2 · border mass, with a flood over the cells."""
    rows, columns = values.shape
    above = {c for c in np.ndindex(rows, columns) if values[c] > values.mean()}
    masses = []
    while above:
        todo, mass = [above.pop()], 0.0
        while todo:
            y, x = todo.pop()
            mass += float(values[y, x])
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & above
            above -= near
            todo += near
        masses.append(mass)
    p = np.array(masses) / sum(masses)
    inner = values[1:-1, 1:-1].sum() / values.sum()
    return float(-(p * np.log(p)).sum() + 2 * (1 - inner))


def expected(seen: Observation, layers: str, count: int, **question: Any) -> list[tuple[int, int]]:
    """The heads with the lowest scores among all maps of some layers."""
    every = attnviz.explain(seen, layers=layers, **question)
    scored = [(score(a.values.astype(np.float64)), a.layer, a.head or 0) for a in every.answers]
    return [(layer, head) for _, layer, head in sorted(scored)[:count]]


@pytest.mark.parametrize(
    ("question", "layers", "count"),
    [({}, "3-5", 3), ({"query": "120,80"}, "3-5", 5), ({"method": "value-norm"}, "3-5", 2)],
)
def test_the_most_localized_heads_of_the_upper_half_and_their_mean(
    seen: Observation, question: dict[str, Any], layers: str, count: int
) -> None:
    chosen = attnviz.explain(seen, heads=f"localized:{count}", **question)
    heads = expected(seen, layers, count, **question)
    assert [(a.layer, a.head) for a in chosen.answers] == [*heads, (5, None)]
    every = attnviz.explain(seen, layers=layers, **question)
    maps = {(a.layer, a.head): a for a in every.answers}
    for answer in chosen.answers[:-1]:
        np.testing.assert_array_equal(answer.values, maps[answer.layer, answer.head].values)
        assert answer.numbers == maps[answer.layer, answer.head].numbers
    mean = np.mean([maps[head].values for head in heads], 0)
    np.testing.assert_allclose(chosen.answers[-1].values, mean, rtol=1e-6)
    scores = [head.score for head in chosen.questions[0].localized]
    assert scores == pytest.approx([score(maps[h].values.astype(np.float64)) for h in heads])


def test_other_layers_can_be_chosen_from(seen: Observation) -> None:
    chosen = attnviz.explain(seen, heads="localized", layers="0,2")
    heads = [(a.layer, a.head) for a in chosen.answers[:-1]]
    assert heads == expected(seen, "0,2", 3)


def test_each_question_has_heads_of_its_own(seen: Observation) -> None:
    both = attnviz.explain(seen, heads="localized:2", query=["cls", "120,80"])
    one, other = both.each()
    for part, query in ((one, "cls"), (other, "120,80")):
        alone = attnviz.explain(seen, heads="localized:2", query=query)
        assert [(a.layer, a.head) for a in part.answers] == [
            (a.layer, a.head) for a in alone.answers
        ]
        assert part.questions[0].localized == alone.questions[0].localized
    with pytest.raises(UsageError, match="localized heads have no common shape"):
        _ = both.numbers


def answers(maps: np.ndarray[Any, Any]) -> list[Answer]:
    """Answers of one layer with maps (heads, rows, columns)."""
    placement = place(maps.shape[2] * 8, maps.shape[1] * 8, size=8 * maps.shape[1], patch=8)
    return [
        Answer(
            3, n, queries.parse("cls"), values.astype(np.float32), {}, placement,
            np.ones(values.shape, dtype=np.bool_),
        )
        for n, values in enumerate(maps)
    ]  # fmt: skip


def test_of_equal_scores_the_lower_head_comes_first_and_flat_maps_last() -> None:
    maps = np.full((4, 5, 5), 0.01)
    maps[1, 2, 2] = maps[3, 2, 2] = 1  # two equal maps, after a flat one
    maps[2, 0, 0] = 1  # in a corner
    chosen = choose_localized(answers(maps), 4)
    assert [views[0].head for views, _ in chosen] == [1, 3, 2, 0]
    assert chosen[-1][1] == np.inf


def test_the_mean_of_maps_on_two_grids_lies_on_the_finer_one() -> None:
    fine, coarse = np.zeros((1, 4, 4)), np.zeros((1, 2, 2))
    fine[0, 0, 0], coarse[0, 0, 0] = 1, 1  # all the mass in one cell of each
    (one,), (other,) = answers(fine), answers(coarse)
    other = replace(other, layer=5, placement=place(32, 32, size=32, patch=16))
    mean = mean_of([replace(one, placement=place(32, 32, size=32, patch=8)), other], 5)
    expect = np.zeros((4, 4))
    expect[:2, :2] = 0.125  # the coarse cell's half over four cells
    expect[0, 0] += 0.5
    np.testing.assert_allclose(mean.values, expect, atol=1e-6)
    assert (mean.layer, mean.head) == (5, None)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"heads": "localized:25"}, "layers 3, 4, 5 have 24 heads; give at most localized:24"),
        ({"heads": "localized:9", "layers": "2"}, "layers 2 have 8 heads"),
        ({"heads": "localized:0"}, "cannot be read; give localized, or localized:3"),
        ({"heads": "localized:x"}, "cannot be read; give localized, or localized:3"),
        ({"heads": "localized", "method": "rollout"}, "rollout merges all heads; leave it out"),
    ],
)
def test_what_cannot_be_chosen(seen: Observation, options: dict[str, str], line: str) -> None:
    with pytest.raises(UsageError, match=line):
        attnviz.explain(seen, **options)  # type: ignore[arg-type]  # strings


def test_the_suggestion_is_what_localized_draws(seen: Observation) -> None:
    drawn = attnviz.explain(seen, heads="localized")
    assert suggest_heads(seen) == drawn.questions[0].localized
    assert not suggest_heads(attnviz.observe(seen.picture, attnviz.load_model("random")))  # type: ignore[arg-type]


def shown(tmp_path: Path, *options: str) -> Any:
    assert main(["show", CAT, "--size", "64", "-o", str(tmp_path), "--no-preview", *options]) == 0
    return json.loads((tmp_path / "cat.jpg" / "stats.json").read_text())


def test_show_names_the_heads_and_draws_what_it_drew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = shown(tmp_path / "a")
    note = "the three most localized heads are"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if note in line]
    same = shown(tmp_path / "b", "--layers", "-1")
    assert note not in capsys.readouterr().err
    assert record == same
    chosen = shown(tmp_path / "c", "--heads", "localized")
    names = [f"{each['layer']}.{each['head']}" for each in chosen["localized"]]
    assert f"{note} {', '.join(names)} (layer.head); draw them with --heads localized" in line
    assert "localized" not in record
    for quiet in (["--quiet"], ["--heads", "all", "--layers", "all"]):
        capsys.readouterr()
        shown(tmp_path / "d", *quiet)
        assert note not in capsys.readouterr().err


def test_the_sheet_of_show_marks_the_most_localized_of_its_heads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[str]] = {}
    real = sheet.compose

    def watched(*args: Any, **more: Any) -> Any:
        drawn["titles"] = [cell.title for cell in args[1] if cell is not None]
        drawn["heading"] = [more["title"]]
        return real(*args, **more)

    monkeypatch.setattr(sheet, "compose", watched)
    heads = [
        (each["layer"], each["head"])
        for each in shown(tmp_path, "--heads", "localized")["localized"]
    ]
    assert not any("★" in title for title in drawn["titles"])  # all of them are
    for options, layers in (([], [5]), (["--quiet"], [5]), (["--layers", "all"], range(6))):
        shown(tmp_path, *options)
        stars = [f"★ layer {n}  head {h}" for n, h in sorted(heads) if n in layers]
        assert [title for title in drawn["titles"] if "★" in title] == stars
        assert drawn["heading"][0].endswith("★ most localized") == bool(stars)
    for options in (["--layers", "1,2"], ["--method", "value-norm"]):
        shown(tmp_path, *options)
        assert not any("★" in title for title in drawn["titles"])


def test_show_writes_each_head_and_their_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = shown(tmp_path, "--heads", "localized:2")
    files = [head["file"] for head in record["heads"]]
    assert files[-1] == "localized.png"
    assert len(files) == 3
    assert all((tmp_path / "cat.jpg" / name).exists() for name in files)
    for entry, head in zip(record["localized"], record["heads"], strict=False):
        assert (entry["question"], entry["layer"], entry["head"]) == (
            0, head["layer"], head["head"],
        )  # fmt: skip
        parts = head["map"]["spatial_entropy"], head["map"]["border_mass"]
        assert entry["score"] == pytest.approx(parts[0] + 2 * parts[1], abs=1e-5)
    assert record["heads"][-1]["head"] is None
    out = capsys.readouterr().out
    assert "the most localized heads" in out
    assert "mean" in out
    shown(tmp_path)  # again without: the earlier files go
    assert not (tmp_path / "cat.jpg" / "localized.png").exists()


def test_a_side_of_a_comparison_is_the_mean_of_its_localized_heads(tmp_path: Path) -> None:
    options = ["--random-weights", "--size", "64", "--heads", "localized", "--npz"]
    assert main(["compare", CAT, *options, "-o", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "cat.jpg" / "compare.json").read_text())
    assert [side["head"] for side in record["sides"]] == ["localized", "localized"]
    drawn = shown(tmp_path / "show", "--heads", "localized")
    side, mean = record["sides"][0]["map"], drawn["heads"][-1]["map"]
    assert side == pytest.approx(mean, rel=1e-5)


def test_arrays_of_several_questions_have_each_map(tmp_path: Path) -> None:
    points = ["-q", "cls", "-q", "120,80", "-q", "300,200"]
    record = shown(tmp_path, "--heads", "localized:2", "--npz", *points)
    with np.load(tmp_path / "cat.jpg" / "maps.npz") as arrays:
        assert arrays["questions"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        heads = [-1 if head["head"] is None else head["head"] for head in record["heads"]]
        assert arrays["heads"].tolist() == heads
        assert arrays["layers"].tolist() == [head["layer"] for head in record["heads"]]
        for number, head in enumerate(record["heads"]):
            assert arrays[f"map{number:02d}"].shape == (head["rows"], head["columns"])
            assert arrays[f"map{number:02d}"].max() == pytest.approx(head["map"]["maximum"])


def test_show_draws_where_nothing_can_be_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise UsageError("layer 3 has no such query")

    expected_record = shown(tmp_path / "a")
    monkeypatch.setattr("attnviz.explanation.explain_observation.suggest_heads", fail)
    capsys.readouterr()
    assert shown(tmp_path / "b") == expected_record
    assert "localized" not in capsys.readouterr().err


@pytest.mark.parametrize("query", ["cls", "mean"])
def test_the_heads_are_those_of_the_model_s_own_eager_attention(tmp_path: Path, query: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = explored.save("vit", tmp_path / "vit", attn_implementation="eager")
    picture = explored.picture(64, 64)
    model = attnviz.load_model(str(folder))
    seen = attnviz.observe(picture, model)
    chosen = attnviz.explain(seen, heads="localized:4", query=query).questions[0].localized
    theirs = transformers.ViTModel.from_pretrained(folder, attn_implementation="eager").eval()
    pixels = model.pixels(picture, seen.placement)
    with torch.no_grad():
        out = theirs(pixels, output_attentions=True)
    scored = []
    for layer in (1, 2):  # the upper half of three
        for head, weights in enumerate(out.attentions[layer][0].double().numpy()):
            row = weights[0] if query == "cls" else weights[1:].mean(0)
            scored.append((score(row[1:].reshape(8, 8)), layer, head))
    assert [(each.layer, each.head) for each in chosen] == [s[1:] for s in sorted(scored)[:4]]
    assert [each.score for each in chosen] == pytest.approx([s[0] for s in sorted(scored)[:4]])


def test_where_all_maps_are_flat_the_first_heads_are_taken_and_none_is_suggested() -> None:
    model = attnviz.load_model("tiny", size=64, random_weights=True)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()
    seen = attnviz.observe(attnviz.load_image(CAT), model)
    drawn = attnviz.explain(seen, heads="localized:2")
    heads = [(each.layer, each.head, each.score) for each in drawn.questions[0].localized]
    assert heads == [(3, 0, np.inf), (3, 1, np.inf)]
    assert [each.score for each in make_record(drawn).localized or ()] == [None, None]
    assert suggest_heads(seen) == ()
