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
from lrp_oracle import Affine, layer, linear
from torch import Tensor

import attnviz
from attnviz.errors import RecordingError, UsageError
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
        return linear(oracle.normed(x[0], norm, 1e-12), end) @ weights

    def back(x: Tensor) -> Tensor:
        """Of one linear map that makes the sum."""
        found = torch.zeros_like(x)
        weight = (weights @ end[0])[None], None
        found[0] = oracle.linear(oracle.normed(x[0], norm, 1e-12), weight, weights.new_ones(1))
        return found

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
def test_a_difference_is_a_head_that_subtracts(against: str) -> None:
    seen = observed()
    weights = torch.full((4,), -1 / 3) if against == "rest" else torch.tensor([-1.0, 0, 0, 0])
    weights[TARGET] = 1
    found = attnviz.explain(seen, method="attribution", target=str(TARGET), against=against)
    close(found.maps, oracle.rolled_out(expected(seen, weights.double()))[0, 1:])


REGISTERS = ("norm1", "attention.q_proj", "attention.k_proj", "attention.v_proj",
             "attention.o_proj", "norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip


@pytest.mark.parametrize("name", ["Dinov2WithRegisters", "IJepa"])
def test_registers_and_no_class_token(name: str, tmp_path: Path) -> None:
    """The length of the class token, or of the mean of the grid; LayerScale passes relevance on."""
    torch.manual_seed(4)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=48,
        patch_size=8, image_size=32,
    )  # fmt: skip
    built = getattr(transformers, f"{name}Model")(config)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    built.save_pretrained(tmp_path)
    model = attnviz.load_model(str(tmp_path), size=31)
    model.module.double()
    seen = attnviz.observe(picture(), model, gradients=True)
    state = {n: v.double() for n, v in built.state_dict().items()}
    registers, eps = name == "Dinov2WithRegisters", config.layer_norm_eps
    stack = "encoder.layer.{}." if registers else "layers.{}."
    parts = REGISTERS if registers else ("layernorm_before", *VIT)
    layers = [layer(state, [stack.format(i) + each for each in parts]) for i in range(2)]
    scales = [[state[f"{stack.format(i)}layer_scale{k}.lambda1"] for k in (1, 2)]
              for i in range(2)] if registers else None  # fmt: skip
    norm = state["layernorm.weight"], state["layernorm.bias"]

    def pooled(x: Tensor) -> Tensor:
        x = oracle.normed(x, norm, eps)
        return x[0] if registers else x.mean(0)

    def back(x: Tensor) -> Tensor:
        u, found = pooled(x), torch.zeros_like(x)
        of_u = u**2 / (u @ u)
        if registers:
            found[0] = of_u
        else:
            found = oracle.normed(x, norm, eps) / len(x) * oracle.shared(of_u, u)
        return found

    assert seen.run is not None
    matrices = oracle.maps(
        seen.run.recording.blocks[0].input[0], layers, lambda x: pooled(x).norm(), back,
        heads=HEADS, eps=eps, scales=scales,
    )  # fmt: skip
    found = attnviz.explain(seen, method="attribution", target="norm")
    rolled = oracle.rolled_out(matrices)
    prefix = len(rolled) - ROWS * COLUMNS
    assert prefix == (5 if registers else 0)
    expected = rolled[0] if registers else (rolled - torch.eye(len(rolled))).mean(0)
    close(found.maps, expected[prefix:])


def test_what_there_is_no_rule_for_is_named() -> None:
    class Log(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.abs() + 1).log()

    seen = deepcopy(observed().model)
    inner: Any = next(m for m in seen.module.modules() if hasattr(m, "classifier"))
    inner.classifier = torch.nn.Sequential(Log(), inner.classifier)
    changed = attnviz.observe(picture(), seen, gradients=True)
    with pytest.raises(RecordingError, match=r"attribution has no rule for log, .*relevance$"):
        attnviz.explain(changed, method="attribution", target="1")
    with pytest.raises(UsageError, match="gradients=True"):
        attnviz.explain(attnviz.observe(picture(), seen), method="attribution")


def test_relevance_is_found_once_for_each_score(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed()
    one = attnviz.explain(seen, method="attribution", target="1", layers="1,2").maps

    def never(*_: Any) -> None:
        pytest.fail("it went back again")

    monkeypatch.setattr("attnviz.explanation.score_gradients.relevance_at", never)
    again = attnviz.explain(seen, method="attribution", target="1", layers="1,2").maps
    np.testing.assert_array_equal(again, one)
