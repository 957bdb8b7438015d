"""Scores of maps made by hand, laid on a picture whose objects are known."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from numpy.typing import NDArray
from PIL import Image

import attnviz
from attnviz.evaluation.map_scorer import MapScorer, Score
from attnviz.evaluation.objects import load_objects, on_tokens
from attnviz.explanation.explanation import Answer, Explanation, ResolvedQuestion
from attnviz.geometry.grid import TokenGrid
from attnviz.geometry.placement import Fit

RED, GREEN = (200, 0, 0), (0, 160, 0)


@pytest.fixture
def seen(tmp_path: Path) -> attnviz.Observation:
    """A picture of 64×64 under 4×4 tokens."""
    path = pictures.save(pictures.noise(64, 64), tmp_path / "a.png")
    return attnviz.observe(attnviz.load_image(path), attnviz.load_model("random", size=64))


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """Red is token 0, green are tokens 5 and 6."""
    image = Image.new("RGB", (64, 64))
    image.paste(RED, (0, 0, 16, 16))
    image.paste(GREEN, (16, 16, 48, 32))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def explanation(seen: attnviz.Observation, *maps: dict[int, float], layer: int = 0) -> Explanation:
    """One head for each map, given as the weights of some of its 16 tokens."""
    answers = []
    for head, weights in enumerate(maps):
        values = np.zeros(16, dtype=np.float32)
        values[list(weights)] = list(weights.values())
        answers.append(answer(seen, values.reshape(4, 4), layer=layer, head=head))
    return Explanation(seen, (ResolvedQuestion(answers[0].query),), "attention", tuple(answers))


def answer(seen: attnviz.Observation, values: NDArray[np.float32], **where: Any) -> Answer:
    query = attnviz.explain(seen).query
    drawn = np.ones(values.shape, dtype=np.bool_)
    return Answer(**where, query=query, values=values, numbers={}, placement=seen.placement,
                  drawn=drawn)  # fmt: skip


def by_head(scores: list[Score]) -> dict[Any, dict[str, float]]:
    return {score.head or score.baseline or 0: score.numbers for score in scores}


def test_heads_their_mean_and_the_best_for_each_object(
    seen: attnviz.Observation, mask: Path
) -> None:
    maps = explanation(seen, {0: 1.0}, {5: 0.5, 6: 0.5}, {15: 0.5, 0: 0.5})
    scores = attnviz.evaluate(maps, mask=mask)
    found = {score.head: score.numbers for score in scores if score.baseline is None}
    assert list(found) == [0, 1, 2, "mean", "best"]
    assert [found[h]["pointing"] for h in (0, 1, 2, "mean")] == [1, 1, 0.5, 1]
    # 60 % of two equal weights are both of them.
    assert [found[h]["jaccard60"] for h in (0, 1, 2)] == [1 / 2, 1 / 2, (1 / 2 + 0) / 2]
    assert found["best"] == {"jaccard60": 1.0}  # red by head 0, green by head 1
    # The mean has 1/2 on token 0 and 1/6 on 5, 6 and 15: two of them are 60 %.
    assert found["mean"]["jaccard60"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["mean"]["jaccard_area"] == 1
    # Of 3·13 pairs, 15 is beaten by token 0 alone and equal to two.
    assert found["mean"]["auc"] == pytest.approx(1 - (2 / 2) / 39)


def test_baselines_come_last_on_the_same_grid(seen: attnviz.Observation, mask: Path) -> None:
    scores = attnviz.evaluate(explanation(seen, {0: 1.0}), mask=mask)
    assert [(s.baseline, s.method, s.layer, s.head) for s in scores[-2:]] == [
        ("gaussian", None, 0, None),
        ("saliency", None, 0, None),
    ]
    # The four middle tokens are equal: 5 and 6 are green, 9 and 10 of nothing.
    assert scores[-2].numbers["pointing"] == pytest.approx(0.5)
    assert scores[-2].numbers["jaccard_area"] == pytest.approx(2 / 4)


def test_a_control_is_a_baseline(seen: attnviz.Observation, mask: Path) -> None:
    maps = explanation(seen, {0: 1.0})
    scores = attnviz.evaluate(maps, mask=mask, control=explanation(seen, {15: 1.0}))
    baselines = [score for score in scores if score.baseline == "random weights"]
    assert [(score.method, score.head) for score in baselines] == [
        ("attention", 0), ("attention", "mean"), ("attention", "best"),
    ]  # fmt: skip
    assert baselines[0].numbers["pointing"] == 0


def test_layers_may_differ_in_heads_and_grids(seen: attnviz.Observation, mask: Path) -> None:
    maps = explanation(seen, {0: 1.0}, {5: 1.0})
    small = answer(seen, np.array([[1, 0], [0, 0]], dtype=np.float32), layer=1, head=0)
    coarse = replace(seen.placement, grid=TokenGrid(2, 2, 32))
    both = replace(maps, answers=(*maps.answers, replace(small, placement=coarse)))
    scores = attnviz.evaluate(both, mask=mask)
    heads = [(score.layer, score.head) for score in scores if score.baseline is None]
    assert heads == [(0, 0), (0, 1), (0, "mean"), (0, "best"), (1, 0), (1, "mean"), (1, "best")]
    # Red covers a quarter of coarse token 0, green a quarter of 0 and of 1: each has token 0.
    assert scores[4].numbers["jaccard60"] == 1
    assert [score.layer for score in scores[-4:]] == [0, 0, 1, 1]


@pytest.mark.parametrize("fit", ["keep", "crop", "pad", "squash"])
def test_real_maps_against_pairs_counted_one_by_one(tmp_path: Path, fit: Fit) -> None:
    box = (32, 16, 80, 48)  # whole tokens of each grid
    pictures.noise(128, 64).save(tmp_path / "a.png")
    pictures.bright_square(128, 64, box).save(tmp_path / "mask.png")
    model = attnviz.load_model("random", heads=2, size=91 if fit == "keep" else 64, patch=8)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "a.png"), model, fit=fit)
    maps = attnviz.explain(seen)
    scores = attnviz.evaluate(maps, mask=tmp_path / "mask.png")
    for head, found in zip((0, 1), scores, strict=False):
        inside: list[float] = []
        outside: list[float] = []
        values = maps.answers[head].values
        for row, column in np.argwhere(seen.drawn):
            x, y = seen.placement.visible_centre(int(row), int(column))
            object_token = box[0] < x < box[2] and box[1] < y < box[3]
            (inside if object_token else outside).append(values[row, column])
        pairs = [(a > b) + (a == b) / 2 for a, b in itertools.product(inside, outside)]
        assert found.numbers["auc"] == pytest.approx(sum(pairs) / len(pairs))
        assert found.numbers["pointing"] == (max(inside) > max(outside))


def test_a_layer_that_looks_at_bright_tokens_finds_the_bright_object(tmp_path: Path) -> None:
    image = pictures.bright_square(96, 64, (32, 16, 64, 48))
    image.save(tmp_path / "a.png")
    weights = str(pictures.brightness_layer(tmp_path / "bright.safetensors"))
    model = attnviz.load_model("random", heads=2, weights=weights, size=78)
    maps = attnviz.explain(attnviz.observe(attnviz.load_image(tmp_path / "a.png"), model))
    for score in attnviz.evaluate(maps, mask=tmp_path / "a.png")[:3]:
        assert score.numbers["pointing"] == 1
        assert score.numbers["auc"] == 1
        assert score.numbers["jaccard_area"] == 1


def test_truth_is_found_once_for_all_layers_of_a_grid(
    seen: attnviz.Observation, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(*arguments: Any) -> NDArray[np.bool_]:
        calls.append(1)
        return on_tokens(*arguments)

    monkeypatch.setattr("attnviz.evaluation.map_scorer.on_tokens", counted)
    maps = explanation(seen, {0: 1.0})
    both = replace(maps, answers=(*maps.answers, replace(maps.answers[0], layer=1)))
    objects = load_objects(str(mask), width=64, height=64)
    judge = MapScorer(seen, objects)
    assert len(judge.maps(both)) == 6
    assert len(judge.trivial(both)) == 4
    assert calls == [1]
