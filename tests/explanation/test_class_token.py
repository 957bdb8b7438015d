"""The class token is the one that its parameter fills, wherever it stands."""

import sys
from typing import Any

import numpy as np
import pictures
import pytest
import token_orders
import torch

import attnviz
from attnviz.explanation.explain_observation import explain
from attnviz.explanation.running import observe

PICTURE = attnviz.Picture("noise", np.asarray(pictures.noise(48, 32)))
ORDERS = {
    # name: tokens before and behind the grid of 4 x 6, the class token first
    "ClassLast": (24,),
    "RegistersThenClassLast": (26, 24, 25),
    "RegistersFirstClassLast": (26, 0, 1),
    "RegistersThenClass": (2, 0, 1),
}


def loaded(name: str) -> attnviz.Model:
    sys.modules.pop("token_orders", None)
    return attnviz.load_model(f"py:{token_orders.__file__}:{name}", size=40)


@pytest.mark.parametrize("name", ORDERS)
def test_prefix_begins_with_the_class_token(name: str) -> None:
    observation = observe(PICTURE, loaded(name))
    assert observation.placement.grid.grid_tokens == 24
    assert {layer.prefix for layer in observation.layers.values()} == {ORDERS[name]}


@pytest.mark.parametrize("name", ORDERS)
def test_the_map_is_the_class_tokens_row(name: str) -> None:
    """As of a module that computes softmax(q·kᵀ) itself, and says where its class token is."""
    model = loaded(name)
    observation = observe(PICTURE, model)
    explanation = explain(observation, query="auto", layers="0")
    module: Any = model.module
    x = module.tokens(model.pixels(PICTURE, observation.placement))
    rows = module.blocks[0].weights(x)[0, :, module.place]  # (heads, tokens)
    at = module.grid_at
    expected = rows[:, at : at + 24].reshape(-1, 4, 6)
    maps = torch.as_tensor(explanation.maps[0])
    torch.testing.assert_close(maps.float(), expected.float(), atol=1e-6, rtol=1e-4)
