"""Chefer's attribution asked of models, held to LRP written out layer by layer."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import chefer_oracle as oracle
import numpy as np
import pytest
import torch
from lrp_oracle import Affine, layer
from torch import Tensor

import attnviz
from attnviz.errors import UsageError
from attnviz.io.picture import Picture

transformers = pytest.importorskip("transformers")

ROWS, COLUMNS, HEADS, WIDTH, TARGET = 3, 5, 4, 32, 2
VIT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
       "layernorm_after", "mlp.fc1", "mlp.fc2")  # fmt: skip


def picture() -> Picture:
    """Noise of 80 × 48 pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    return Picture("noise.png", noise)


@cache
def observed(attention: str = "sdpa") -> attnviz.Observation:
    """A picture in a small classifier that attends sharply, in float64."""
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=HEADS, intermediate_size=48,
        patch_size=8, image_size=32, num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    folder = mkdtemp()
    model.save_pretrained(folder)
    loaded = attnviz.load_model(folder, head="class", size=31)
    loaded.module.double()
    inner: Any = next(m for m in loaded.module.modules() if hasattr(m, "config"))
    inner.config._attn_implementation = attention
    return attnviz.observe(picture(), loaded, gradients=True)


def parts(seen: attnviz.Observation) -> tuple[Tensor, list[Any], Affine, Affine]:
    """The tokens that enter, the layers, the last norm and the head, of the classifier."""
    assert seen.run is not None
    state = {n.removeprefix("model."): v for n, v in seen.model.module.state_dict().items()}
    layers = [
        layer(state, [f"vit.layers.{i}.{n}" for n in ("layernorm_before", *VIT)]) for i in range(3)
    ]
    norm, head = (
        (state[f"{n}.weight"].double(), state[f"{n}.bias"].double())
        for n in ("vit.layernorm", "classifier")
    )
    return seen.run.recording.blocks[0].input[0], layers, norm, head


def expected(seen: attnviz.Observation, weights: Tensor) -> list[Tensor]:
    """The matrices of the classifier, for the sum of its logits with these weights."""
    tokens, layers, norm, end = parts(seen)

    def head(x: Tensor) -> Tensor:
        return oracle.mapped(oracle.normed(x[0], norm, 1e-12), end) @ weights

    def back(x: Tensor) -> list[Tensor]:
        found = torch.zeros(2, *x.shape, dtype=torch.float64)
        for i, part in enumerate((weights.relu(), (-weights).relu())):
            found[i, 0] = oracle.linear(oracle.normed(x[0], norm, 1e-12), end, part)
        return list(found[: 1 + bool((weights < 0).any())])

    return oracle.maps(tokens, layers, head, back, heads=HEADS, eps=1e-12)


def close(found: Any, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    np.testing.assert_allclose(
        np.asarray(found).ravel(), expected.detach().numpy(), atol=1e-5 * scale, rtol=1e-5
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_class_is_lrp_written_out(attention: str) -> None:
    seen = observed(attention)
    matrices = expected(seen, torch.eye(4, dtype=torch.float64)[TARGET])
    for start, last in ((0, 2), (1, 2), (0, 1)):
        found = attnviz.explain(
            seen, method="attribution", target=str(TARGET), layers=str(last), start_layer=start
        )
        assert found.maps.shape == (1, 1, ROWS, COLUMNS)
        close(found.maps, oracle.rolled_out(matrices[start : last + 1])[0, 1:])


def test_from_a_place_without_its_own_one() -> None:
    seen = observed()
    matrices = expected(seen, torch.eye(4, dtype=torch.float64)[TARGET])
    found = attnviz.explain(seen, method="attribution", target=str(TARGET), query="20,20")
    token = 1 + 1 * COLUMNS + 1
    rolled = oracle.rolled_out(matrices) - torch.eye(len(matrices[0]), dtype=torch.float64)
    close(found.maps, rolled[token, 1:])


@pytest.mark.parametrize("against", ["0", "rest"])
def test_a_difference_goes_back_in_two_parts(against: str) -> None:
    """Sums of both would cancel where terms are shared out by their sums."""
    seen = observed()
    weights = torch.full((4,), -1 / 3) if against == "rest" else torch.tensor([-1.0, 0, 0, 0])
    weights[TARGET] = 1
    found = attnviz.explain(seen, method="attribution", target=str(TARGET), against=against)
    close(found.maps, oracle.rolled_out(expected(seen, weights.double()))[0, 1:])
