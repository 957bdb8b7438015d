import itertools
from typing import Any

import numpy as np
import pytest

import attnviz
from attnviz.comparison.sides import ComparisonSide, heads, names, shared, sides_of
from attnviz.io.picture import Picture

PICTURE = Picture("grey.png", np.full((48, 48, 3), 99, dtype=np.uint8))


def sides(spec: str = "tiny", *, random: bool = False, **asked: Any) -> list[ComparisonSide]:
    model = attnviz.load_model(spec, size=48, random_weights=random)
    seen = attnviz.observe(PICTURE, model, layers="all")
    return sides_of(attnviz.explain(seen, **asked))


def test_a_model_and_its_control() -> None:
    both = [*sides(), *sides(random=True)]
    assert names(both) == ["pretrained", "random weights"]
    assert shared(both) == "tiny, attention, layer 5, from cls"


def test_models_by_their_specs() -> None:
    both = [*sides(), *sides("random")]
    assert names(both) == ["tiny, layer 5, from cls", "random, layer 0, from mean"]
    controls = [*both, *sides(random=True)]
    assert names(controls)[2] == "tiny, random weights, layer 5, from cls"


def test_layers_methods_and_queries() -> None:
    assert names(sides(layers="0,5")) == ["layer 0", "layer 5"]
    both = [*sides(), *sides(method="rollout", start_layer=1)]
    assert names(both) == ["attention, layer 5", "rollout, layers 1 to 5"]
    assert shared(both) == "tiny, pretrained, from cls"
    assert names(sides(query=["cls", "10,20"])) == ["from cls", "from 10,20"]
    assert names([*sides(), *sides(method="received")])[1] == "received, from all tokens"


def test_targets_in_words() -> None:
    model = attnviz.load_model("tiny", size=48)
    seen = attnviz.observe(PICTURE, model, layers="all", gradients=True)
    maps = attnviz.explain(seen, method="gradient-attention", target=["norm", "0"])
    assert model.labels is not None
    assert names(sides_of(maps)) == ["for norm", f"for {model.labels[0]} (0)"]


@pytest.mark.parametrize(("which", "said"), [("all", "mean of 8 heads"), ("3,", "head 3")])
def test_heads_in_words(which: str, said: str) -> None:
    assert heads(sides(heads=which)[0]) == said
    assert heads(sides(method="rollout")[0]) == "merged heads"


def test_no_two_sides_have_one_name() -> None:
    found = names(
        [
            side
            for random, method in itertools.product([False, True], ["attention", "received"])
            for side in sides(random=random, method=method, layers="0,5")
        ]
    )
    assert len(set(found)) == len(found) == 8
