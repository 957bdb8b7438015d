"""Attention of torchvision's models, recorded and compared with what they compute themselves."""

from typing import Any

import families
import pictures
import pytest
import torch
import torchvision_schemas
from softmaxes import Softmaxes, as_call, asked_again

import attnviz

torchvision: Any = torchvision_schemas.import_or_skip("torchvision")
# Rows of each layer's grid.
MODELS = {
    "vit_b_16": [14] * 12,
    "vit_b_32": [7] * 12,
    "swin_t": [40] * 2 + [20] * 2 + [10] * 6 + [5] * 2,
    "swin_v2_t": [48] * 2 + [24] * 2 + [12] * 6 + [6] * 2,
    "maxvit_t": [56] * 4 + [28] * 4 + [14] * 10 + [7] * 4,
}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(name: str, tmp_path_factory: pytest.TempPathFactory) -> attnviz.Observation:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures.noise(200, 120).save(path)
    model = attnviz.load_model(f"torchvision:{name}", random_weights=True)
    return attnviz.observe(attnviz.load_image(str(path)), model)


def test_weights_grids_and_predictions_are_the_models_own(
    name: str, seen: attnviz.Observation
) -> None:
    pixels = seen.model.pixels(seen.picture, seen.placement)
    families.check_predictions(seen)
    with torch.no_grad(), Softmaxes() as own, asked_again(seen.model.module) as again:
        seen.model.module(pixels)
    weights = again or own.found
    assert len(weights) == seen.count == len(MODELS[name])
    assert [layer.queries.rows for layer in seen.layers.values()] == MODELS[name]
    for layer, each in zip(seen.layers.values(), weights, strict=True):
        matrix = layer.call.matrix()
        torch.testing.assert_close(matrix, as_call(each, matrix.shape), atol=1e-5, rtol=0)
    assert not seen.unexplained


def test_the_row_of_the_documentation_is_true(name: str, seen: attnviz.Observation) -> None:
    families.check_row("torchvision", name, seen)
