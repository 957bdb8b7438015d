"""Maps of a difference of scores, held to models whose head computes the difference itself."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.errors import UsageError
from attnviz.methods import METHODS

CAT = Path(__file__).parents[2] / "sample_images" / "cat.jpg"
A, B, C = 4, 1, 7
WAYS = {"one": [str(B)], "two": [str(B), str(C)], "rest": ["rest"]}
SCORED = [name for name, method in METHODS.items() if method.scored]


@cache
def model() -> attnviz.Model:
    return attnviz.load_model("tiny", head="class", size=64)


@cache
def seen() -> attnviz.Observation:
    return attnviz.observe(attnviz.load_image(CAT), model(), layers="all", gradients=True)


@cache
def with_differences(way: str) -> attnviz.Observation:
    """What a model sees whose class A has the difference as its logit."""
    module = deepcopy(model().module)
    head = [each for each in module.modules() if isinstance(each, nn.Linear)][-1]
    assert head.bias is not None
    numbers = [k for k in range(head.out_features) if k != A]
    others = {"one": [B], "two": [B, C], "rest": numbers}[way]
    with torch.no_grad():
        for values in (head.weight, head.bias):
            values[A] -= values[others].clone().mean(0)
    changed = replace(model(), module=module)
    return attnviz.observe(attnviz.load_image(CAT), changed, layers="all", gradients=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", SCORED)
def test_maps_are_those_of_a_head_that_subtracts(method: str, way: str) -> None:
    found = attnviz.explain(seen(), method=method, target=str(A), against=WAYS[way])
    expected = attnviz.explain(with_differences(way), method=method, target=str(A))
    scale = float(np.abs(expected.maps).max())
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5 * scale)
    assert found.maps.any()
    scored, alone = found.questions[0].target, expected.questions[0].target
    assert scored is not None
    assert alone is not None
    assert float(scored.value) == pytest.approx(float(alone.value), abs=1e-5)


def test_the_probability_stays_that_of_the_class() -> None:
    pair = attnviz.explain(seen(), method="relevance", target=str(A), against="rest")
    one = attnviz.explain(seen(), method="relevance", target=str(A))
    assert pair.questions[0].target is not None
    assert one.questions[0].target is not None
    assert pair.questions[0].target.probability == one.questions[0].target.probability


def test_the_predicted_class_is_not_compared_with_itself() -> None:
    predicted = attnviz.explain(seen(), method="relevance").questions[0].target
    assert predicted is not None
    with pytest.raises(UsageError, match=r"--against \d+: \w+ is the target itself"):
        attnviz.explain(seen(), method="relevance", against=str(predicted.target.index))


@pytest.mark.parametrize(
    ("target", "against", "told"),
    [
        ("norm", "2", "is a norm, which has no like"),
        ("2", "norm", "--against norm: give a class"),
        ("2", "2", "nothing is left to compare"),
        ("2", "bee", "--against 'bee' is no label"),
        ("2", "99", "--against 99: tiny has 21 classes"),
    ],
)
def test_what_cannot_be_compared_is_said(target: str, against: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        attnviz.explain(seen(), method="relevance", target=target, against=against)
    with pytest.raises(UsageError, match="give it alone"):
        attnviz.explain(seen(), method="relevance", against=["rest", "2"])
