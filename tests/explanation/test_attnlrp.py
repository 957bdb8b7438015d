"""AttnLRP asked of models, held to a transformer written out and cut off."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import lrp_oracle as oracle
import numpy as np
import pictures
import pytest
import torch
from text_models import TEXTS, build, transformers
from torch import Tensor
from torch.nn import functional as F

import attnviz
from attnviz.attribution import propagation
from attnviz.errors import UsageError
from attnviz.io.picture import Picture
from attnviz.methods import complete_settings

ROWS, COLUMNS, TARGET = 3, 5, 2
ViT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
       "layernorm_after", "mlp.fc1", "mlp.fc2")  # fmt: skip
REGISTERS = ("norm1", *ViT[:4], "norm2", "mlp.fc1", "mlp.fc2")
CLIP = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
        "layer_norm2", "mlp.fc1", "mlp.fc2")  # fmt: skip


RULES: dict[str, tuple[dict[str, Any], float]] = {
    "epsilon": ({"rule": "epsilon"}, 0.0),
    "gamma": ({"rule": "gamma"}, 0.25),
    "cp": ({"rule": "cp"}, 0.0),
    "cp with a gamma": ({"rule": "cp", "gamma": 0.1}, 0.1),
    "libra": ({"rule": "libra"}, 0.0),
}
"""What is asked, and the γ that it has."""


def picture() -> Picture:
    """Noise of 80 × 48 pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    return Picture("noise.png", noise)


@cache
def checkpoint() -> str:
    """A folder with a small classifier that attends sharply."""
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        patch_size=8, image_size=32, num_labels=4,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    folder = mkdtemp()
    model.save_pretrained(folder)
    return folder


@cache
def observed() -> attnviz.Observation:
    model = attnviz.load_model(checkpoint(), head="class", size=31)
    seen = attnviz.observe(picture(), model, gradients=True)
    assert (seen.placement.grid.rows, seen.placement.grid.columns) == (ROWS, COLUMNS)
    return seen


def close(found: Any, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.float().numpy(), atol=1e-5 * scale, rtol=1e-4)


def entering(seen: attnviz.Observation) -> Tensor:
    """The tokens that enter the first block."""
    assert seen.run is not None
    return seen.run.recording.blocks[0].input


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("start", "last"), [(0, 2), (1, 2), (0, 1), (1, 1)])
def test_a_class_by_the_layers_that_are_asked(start: int, last: int, rule: str) -> None:
    """Up to a layer: as if the model ended with it."""
    seen = observed()
    asked, gamma = RULES[rule]
    state = dict(seen.model.module.state_dict())
    state = {name.removeprefix("model."): values for name, values in state.items()}
    layers = [
        oracle.layer(state, [f"vit.layers.{i}.{n}" for n in ("layernorm_before", *ViT)])
        for i in range(last + 1)
    ]

    def head(x: Tensor) -> Tensor:
        norm, end = (
            (state[f"{n}.weight"].double(), state[f"{n}.bias"].double())
            for n in ("vit.layernorm", "classifier")
        )
        return oracle.linear(oracle.normed(x[:, 0], norm, 1e-12), end, gamma)[0, TARGET]

    _, expected = oracle.relevance(
        entering(seen), layers, head, heads=4, eps=1e-12, constant=asked["rule"] in ("cp", "libra"),
        gamma=gamma, biased=rule == "libra",
    )  # fmt: skip
    found = attnviz.explain(
        seen, method="attnlrp", target=str(TARGET), layers=str(last), start_layer=start, **asked
    )
    assert found.maps.shape == (1, 1, ROWS, COLUMNS)
    close(found.maps[0, 0].ravel(), expected[start][0, 1:])
    assert found.maps.min() < 0 < found.maps.max()


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "cp"])
@pytest.mark.parametrize("name", ["Dinov2WithRegisters", "IJepa"])
def test_registers_and_no_class_token(name: str, rule: str, tmp_path: Path) -> None:
    """The length of the class token, or of the mean of the grid; LayerScale passes relevance on."""
    torch.manual_seed(4)
    config = getattr(transformers, f"{name}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        patch_size=8, image_size=32,
    )  # fmt: skip
    built = getattr(transformers, f"{name}Model")(config)
    for part, parameter in built.named_parameters():
        if "lambda1" in part:
            torch.nn.init.uniform_(parameter, 0.5, 2)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    built.save_pretrained(tmp_path)
    seen = attnviz.observe(picture(), attnviz.load_model(str(tmp_path), size=31), gradients=True)
    state, registers = built.state_dict(), name == "Dinov2WithRegisters"
    for part in [each for each in state if each.endswith("lambda1")]:
        block, _, number = part.removesuffix(".lambda1").rpartition("layer_scale")
        last = block + ("attention.o_proj" if number == "1" else "mlp.fc2")
        state[f"{last}.weight"] *= state[part][:, None]  # a scale of what they give
        state[f"{last}.bias"] *= state[part]
    stack = "encoder.layer.{}." if registers else "layers.{}."
    names = REGISTERS if registers else ("layernorm_before", *ViT)
    layers = [oracle.layer(state, [stack.format(i) + each for each in names]) for i in range(2)]
    norm = state["layernorm.weight"].double(), state["layernorm.bias"].double()

    def head(x: Tensor) -> Tensor:
        out = oracle.normed(x, norm, config.layer_norm_eps)[0]
        u = out[0] if registers else out.mean(0)
        score: Tensor = u @ u.detach() / u.norm().detach()
        return score

    asked, gamma = RULES[rule]
    more: dict[str, Any] = {"eps": config.layer_norm_eps, "constant": rule == "cp", "gamma": gamma}
    _, expected = oracle.relevance(entering(seen), layers, head, heads=4, **more)
    for start in (0, 1):
        found = attnviz.explain(seen, method="attnlrp", target="norm", start_layer=start, **asked)
        close(found.maps[0, 0].ravel(), expected[start][0, -ROWS * COLUMNS :])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "libra"])
def test_relevance_of_the_pixels_of_each_token(rule: str) -> None:
    seen = observed()
    asked, gamma = RULES[rule]
    module = deepcopy(seen.model.module).double()
    state = {name.removeprefix("model."): v for name, v in module.state_dict().items()}
    pixels = seen.model.pixels(seen.picture, seen.placement).double().requires_grad_()
    embed = next(m for n, m in module.named_modules() if n.endswith("vit.embeddings"))
    x = embed(pixels, interpolate_pos_encoding=True)
    if gamma:
        projection = embed.patch_embeddings.projection
        flat = F.unfold(pixels, 8, stride=8).mT  # a convolution of patches is a linear map of each
        of_patch = projection.weight.flatten(1), projection.bias
        x = torch.cat([x[:, :1].detach(), x[:, 1:].detach()], 1)
        patches = oracle.linear(flat, of_patch, gamma)
        x = x + torch.cat([x.new_zeros(1, 1, x.shape[2]), patches - patches.detach()], 1)
    for i in range(3):
        of = oracle.layer(state, [f"vit.layers.{i}.{n}" for n in ("layernorm_before", *ViT)])
        x = oracle.block(
            x, of, heads=4, activation=F.gelu, eps=1e-12, mask=None,
            constant=asked["rule"] == "cp", gamma=gamma,
        )  # fmt: skip
    norm = state["vit.layernorm.weight"], state["vit.layernorm.bias"]
    end = state["classifier.weight"], state["classifier.bias"]
    score = oracle.linear(oracle.normed(x[:, 0], norm, 1e-12), end, gamma)[0, TARGET]
    (g,) = torch.autograd.grad(score, [pixels])
    cells = (pixels * g).detach()[0].sum(0).view(ROWS, 8, COLUMNS, 8).sum((1, 3))
    found = attnviz.explain(seen, method="attnlrp", target=str(TARGET), at="pixels", **asked)
    close(found.maps[0, 0].ravel(), cells.flatten())


def test_a_text_is_a_cosine_that_is_shared_out(tmp_path: Path) -> None:
    folder = build("clip", tmp_path / "clip")
    given = attnviz.load_image(pictures.save(pictures.noise(90, 60), tmp_path / "noise.png"))
    seen = attnviz.observe(given, attnviz.load_model(str(folder), head="text"), gradients=True)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    state = model.vision_model.state_dict()
    names = [name for name in state if name.endswith("layers.0.layer_norm1.weight")]
    stack = names[0].removesuffix("0.layer_norm1.weight")
    layers = [
        oracle.layer(state, [f"{stack}{i}.{n}" for n in ("layer_norm1", *CLIP)]) for i in range(2)
    ]
    after = tuple(state[f"post_layernorm.{n}"].double() for n in ("weight", "bias"))
    projection = model.visual_projection.weight.detach().double(), None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS[:2]:
        words = model.text_model(**tokenizer([text], return_tensors="pt")).pooler_output
        of_text = model.text_projection(words)[0].detach().double()

        def head(x: Tensor, of_text: Tensor = of_text) -> Tensor:
            u = oracle.linear(oracle.normed(x[:, 0], after, 1e-5), projection)[0]
            cosine: Tensor = (u / u.norm().detach()) @ (of_text / of_text.norm())
            return cosine

        activation = transformers.activations.ACT2FN[model.config.vision_config.hidden_act]
        cosine, expected = oracle.relevance(
            entering(seen), layers, head, heads=2, activation=activation
        )
        for start in (0, 1):
            found = attnviz.explain(seen, method="attnlrp", text=text, start_layer=start)
            close(found.maps[0, 0].ravel(), expected[start][0, 1:])
            scored = found.questions[0].target
            assert scored is not None
            assert float(scored.value) == pytest.approx(float(cosine.detach()), abs=1e-5)


def test_the_norm_of_a_token_goes_back_by_its_gradient() -> None:
    model = attnviz.load_model("tiny")
    seen = attnviz.observe(picture(), model, gradients=True)
    assert seen.run is not None
    tokens, output = entering(seen), seen.run.output
    vector = output[0, 0] if isinstance(output, Tensor) and output.ndim == 3 else output[0]
    constant = (vector * vector.detach()).sum() / vector.norm().detach()
    found = attnviz.explain(seen, method="attnlrp", target="norm").maps
    expected = attnviz.attribution.propagate(constant, tokens)[0, 5:]
    close(found.ravel(), expected)


def test_a_mask_leaves_tokens_out() -> None:
    mask = np.ones((48, 80), dtype=bool)
    mask[:, :24] = False
    model = attnviz.load_model("tiny", head="class")
    found = [
        attnviz.explain(
            attnviz.observe(picture(), model, mask=each, gradients=True),
            method="attnlrp",
            target="7",
        ).maps
        for each in (None, mask)
    ]
    assert not np.allclose(found[0], found[1])
    hidden = attnviz.observe(picture(), model, mask=mask).drawn
    assert np.abs(found[1][0, 0][~hidden]).max() < 1e-6 * np.abs(found[1]).max()


def test_an_attention_pool_behind_the_layers_is_gone_through(tmp_path: Path) -> None:
    model = attnviz.load_model(str(build("siglip 2, of one shape", tmp_path / "m")), head="text")
    given = attnviz.load_image(pictures.save(pictures.noise(90, 60), tmp_path / "p.png"))
    seen = attnviz.observe(given, model, gradients=True)
    whole, below = (
        attnviz.explain(seen, method="attnlrp", text=TEXTS[0], layers=each).maps
        for each in ("-1", "1")
    )
    np.testing.assert_array_equal(whole, below)  # the pool stands behind the last block anyway
    with pytest.raises(UsageError, match="different tokens"):
        attnviz.explain(seen, method="attnlrp", text=TEXTS[0], start_layer=2)


def test_what_cannot_be_asked_says_why() -> None:
    with pytest.raises(UsageError, match="--rule libra has none; give --rule gamma or cp"):
        attnviz.explain(observed(), method="attnlrp", rule="libra", gamma=0.1)
    with pytest.raises(UsageError, match="from all tokens alike"):
        attnviz.explain(observed(), method="attnlrp", query="cls")
    with pytest.raises(UsageError, match="no block of a plain stack"):
        attnviz.explain(
            attnviz.observe(picture(), attnviz.load_model("random"), gradients=True),
            method="attnlrp",
        )
    model = attnviz.load_model(checkpoint(), size=31)
    with pytest.raises(UsageError, match="gradients=True"):
        attnviz.explain(attnviz.observe(picture(), model, tokens=True), method="attnlrp")


def test_relevance_is_found_once_for_each_layer_and_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = observed()
    one = attnviz.explain(seen, method="attnlrp", target="1", layers="1,2").maps

    def never(*_: Any) -> None:
        pytest.fail("it was propagated again")

    monkeypatch.setattr("attnviz.explanation.score_gradients.propagate", never)
    np.testing.assert_array_equal(
        attnviz.explain(seen, method="attnlrp", target="1", layers="1,2").maps, one
    )


def test_the_record_has_the_gamma_that_was_taken() -> None:
    assert complete_settings("attnlrp", {"rule": "gamma"})["gamma"] == propagation.GAMMA
    assert complete_settings("attnlrp", {"rule": "gamma", "gamma": 0.1})["gamma"] == 0.1
    assert complete_settings("attnlrp", {})["gamma"] is None
