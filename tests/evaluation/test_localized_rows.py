"""Rows of heads of several layers: localized ones, the mean, and the oracle."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attnviz
from attnviz.cli import main
from attnviz.evaluation import LOCALIZED, METRICS, ORACLE
from attnviz.evaluation.map_scorer import MapScorer, Score
from attnviz.evaluation.metric_plot import draw
from attnviz.evaluation.objects import load_objects
from attnviz.output.schema import EvaluationRow

SAMPLES = Path(__file__).parents[2] / "sample_images"
CAT, MASK = str(SAMPLES / "cat.jpg"), str(SAMPLES / "masks" / "cat.png")


@pytest.fixture(scope="module")
def seen() -> attnviz.Observation:
    return attnviz.observe(attnviz.load_image(CAT), attnviz.load_model("tiny", size=64))


def numbers_of(seen: attnviz.Observation, values: Any) -> dict[str, float]:
    """The metrics of any map on the grid of the model, by the row of a single head."""
    one = attnviz.explain(seen, heads="0,", layers="5")
    answer = replace(one.answers[0], values=values.astype(np.float32))
    return attnviz.evaluate(replace(one, answers=(answer,)), mask=MASK)[0].numbers


def by_head(scores: list[Score], layer: int | None = None) -> dict[Any, dict[str, float]]:
    return {each.head: each.numbers for each in scores if each.layer == layer and each.method}


def test_several_layers_have_rows_of_their_heads_together(seen: attnviz.Observation) -> None:
    maps = attnviz.explain(seen, layers="all")
    rows = by_head(attnviz.evaluate(maps, mask=MASK))
    assert set(rows) == {"mean", LOCALIZED, ORACLE}
    kept = attnviz.explain(seen, heads="localized").answers[-1].values
    assert rows[LOCALIZED] == pytest.approx(numbers_of(seen, kept))
    assert rows["mean"] == pytest.approx(numbers_of(seen, maps.maps[3:].mean((0, 1))))
    every = [numbers_of(seen, values) for values in maps.maps.reshape(-1, *maps.maps.shape[2:])]
    for name, value in rows[ORACLE].items():
        best = max if METRICS[name].higher else min
        assert value == pytest.approx(best(each[name] for each in every))
    last = attnviz.evaluate(attnviz.explain(seen), mask=MASK)
    assert not by_head(last)


def test_heads_that_explain_chose_have_a_row_each(seen: attnviz.Observation) -> None:
    chosen = attnviz.explain(seen, heads="localized:2", layers="1,4")
    scores = [each for each in attnviz.evaluate(chosen, mask=MASK) if each.method]
    places = [(each.layer, each.head) for each in chosen.answers[:2]]
    assert [(each.layer, each.head) for each in scores] == [*places, (None, LOCALIZED)]
    for each, answer in zip(scores, chosen.answers, strict=True):
        assert each.numbers == pytest.approx(numbers_of(seen, answer.values))


@pytest.mark.parametrize(("among", "layers"), [("upper", "upper"), ("all", "all")])
def test_the_request_says_how_many_and_of_which_layers(
    seen: attnviz.Observation, among: Any, layers: str
) -> None:
    objects = load_objects(MASK, width=seen.picture.width, height=seen.picture.height)
    scorer = MapScorer(seen, objects, localized=5, among=among)
    rows = scorer.maps(attnviz.explain(seen, layers="all"))
    assert [(each.layer, each.head) for each in rows] == [
        *((layer, "mean") for layer in range(6)),
        (None, "mean"), (None, LOCALIZED), (None, ORACLE),
    ]  # fmt: skip
    kept = attnviz.explain(seen, heads="localized:5", layers=layers).answers[-1].values
    assert by_head(rows)[LOCALIZED] == pytest.approx(numbers_of(seen, kept))


def evaluated(out: Path, *options: str) -> list[EvaluationRow]:
    line = ["evaluate", str(SAMPLES), "--masks", str(SAMPLES / "masks"), "--size", "48"]
    assert main([*line, "-o", str(out), *options]) == 0
    text = (out / "evaluation.jsonl").read_text(encoding="utf-8")
    data = [json.loads(line) for line in text.splitlines()]
    return [
        EvaluationRow.model_validate({k: v for k, v in e.items() if k != "schema"}) for e in data
    ]


def test_one_table_and_one_plot_have_layers_the_choice_methods_and_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluated(tmp_path, "--heads", "localized:2", "--method", "attention",
                     "--method", "rollout")  # fmt: skip
    model = [(each.method, each.layer, each.head) for each in rows if not each.baseline]
    assert model == [
        *(("attention", layer, "mean") for layer in range(6)),
        ("attention", None, "mean"), ("attention", None, "localized"),
        ("attention", None, "oracle"),
        *(("rollout", layer, None) for layer in range(6)),
    ]  # fmt: skip
    out = capsys.readouterr().out
    (line,) = [row for row in out.splitlines() if " oracle " in row and "random" not in row]
    assert "▲" not in line
    assert "oracle: each picture's best head by its mask, a bound and no choice" in out
    figure = draw(rows)
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"attention: localized heads", "attention: oracle, by the masks", "gaussian",
            "attention: mean of heads", "rollout: merged heads"} <= labels  # fmt: skip
    again = evaluated(tmp_path, "--heads", "localized:2", "--method", "attention",
                      "--method", "rollout")  # fmt: skip
    assert again == rows


def test_layers_that_are_given_are_those_to_choose_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = evaluated(tmp_path, "--heads", "localized", "--layers", "0,4")
    assert {each.layer for each in rows if each.method} == {0, 4, None}
    line = ["evaluate", CAT, "--masks", MASK, "--size", "48", "--heads", "localized:9"]
    assert main([*line, "--layers", "2"]) == 2
    assert "layers 2 have 8 heads; give at most localized:8" in capsys.readouterr().err
