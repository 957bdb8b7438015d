"""Methods asked of checkpoints, held to their papers' formulas on eager attention with autograd."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import method_oracle as oracle
import numpy as np
import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.errors import UsageError
from attnviz.io.picture import Picture
from attnviz.methods import METHODS

ROWS, COLUMNS, PATCH, TARGET = 3, 5, 8, 2
WIDTH, HEIGHT = 80, 48
CLASSIFIERS = {
    "vit": ("ViTConfig", "ViTForImageClassification"),
    "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification"),
}


@dataclass(frozen=True)
class Eager:
    """What autograd says of a checkpoint with eager attention, in float64."""

    prefix: int
    attentions: list[Tensor]
    gradients: list[Tensor]
    block_gradients: list[Tensor]
    logits: Tensor


def picture() -> Picture:
    """Noise of 80 × 48 pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Picture("noise.png", noise)


@cache
def checkpoint(name: str) -> Path:
    """A folder with a small classifier of random weights that attend sharply."""
    transformers = pytest.importorskip("transformers")
    config, model = CLASSIFIERS[name]
    torch.manual_seed(3)
    built = getattr(transformers, model)(
        getattr(transformers, config)(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
            patch_size=PATCH, image_size=32, num_labels=4,
            id2label={0: "ant", 1: "bee", 2: "cat, tom cat", 3: "dog"},
        )
    )  # fmt: skip
    for parameter_name, parameter in built.named_parameters():
        if parameter.ndim > 1 or "lambda1" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.25)
    folder = Path(mkdtemp())
    built.save_pretrained(folder)
    return folder


@cache
def observed(name: str) -> attnviz.Observation:
    model = attnviz.load_model(str(checkpoint(name)), head="class", size=31)
    seen = attnviz.observe(picture(), model, gradients=True)
    assert (seen.placement.grid.rows, seen.placement.grid.columns) == (ROWS, COLUMNS)
    return seen


@cache
def eager(name: str) -> Eager:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(
        checkpoint(name), attn_implementation="eager"
    ).eval()
    seen = observed(name)
    more = {"interpolate_pos_encoding": True} if name == "vit" else {}
    pixels = seen.model.pixels(seen.picture, seen.placement)
    out = model(pixels, output_attentions=True, output_hidden_states=True, **more)
    gradients = torch.autograd.grad(out.logits[0, TARGET], out.attentions, retain_graph=True)
    own = [
        torch.autograd.grad(head(name, model, h)[0, TARGET], a, retain_graph=True)[0]
        for h, a in zip(out.hidden_states[1:], out.attentions, strict=True)
    ]
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    return Eager(
        prefix,
        [a.detach().double() for a in out.attentions],
        [g.double() for g in gradients],
        [g.double() for g in own],
        out.logits.detach(),
    )


def head(name: str, model: Any, hidden: Tensor) -> Tensor:
    """The logits that the model's head gives tokens."""
    if name == "vit":
        logits: Tensor = model.classifier(model.vit.layernorm(hidden)[:, 0])
        return logits
    tokens = model.dinov2_with_registers.layernorm(hidden)
    registers = model.config.num_register_tokens
    patches = tokens[:, 1 + registers :].mean(1)
    of_both: Tensor = model.classifier(torch.cat([tokens[:, 0], patches], 1))
    return of_both


def row(query: str, prefix: int) -> Tensor:
    """Weights of a query over all tokens."""
    weights = torch.zeros(prefix + ROWS * COLUMNS, dtype=torch.float64)
    if query == "cls":
        weights[0] = 1
    elif query == "register2":
        weights[3] = 1
    elif query == "mean":
        weights[prefix:] = 1 / (ROWS * COLUMNS)
    else:
        x, y = (int(n) for n in query.split(","))
        weights[prefix + y * ROWS // HEIGHT * COLUMNS + x * COLUMNS // WIDTH] = 1
    return weights


def on_grid(weights: Tensor, prefix: int) -> np.ndarray:
    return weights[..., prefix:].reshape(*weights.shape[:-1], ROWS, COLUMNS).numpy()


@pytest.mark.parametrize("query", ["cls", "12,40", "mean"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_rollout_is_the_papers(name: str, query: str) -> None:
    a = eager(name)
    w = row(query, a.prefix)
    for fusion in ("mean", "max", "min"):
        for discard in (0.0, 0.9):
            for start in (0, 1):
                found = attnviz.explain(
                    observed(name), query=query, method="rollout", fusion=fusion, discard=discard,
                    start_layer=start,
                ).maps  # fmt: skip
                r = oracle.rollout(a.attentions[start:], fusion, discard)[0]
                np.testing.assert_allclose(found[0, 0], on_grid(w @ r, a.prefix), atol=1e-5)


@pytest.mark.parametrize("query", ["cls", "12,40", "mean"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_methods_of_gradients_are_the_papers(name: str, query: str) -> None:
    a = eager(name)
    w = row(query, a.prefix)
    one = torch.eye(len(w), dtype=torch.float64)
    layers = a.attentions, a.gradients
    products = (a.attentions[1] * a.gradients[1]).clamp_min(0).mean(1)[0]
    expected = {
        "relevance": w @ (oracle.relevance(*layers)[0] - one),
        "gradient-rollout": w @ oracle.gradient_rollout(*layers)[0],
        "gradient-attention": w @ products,
    }
    for method, weights in expected.items():
        layer = "1" if method == "gradient-attention" else "-1"
        found = attnviz.explain(
            observed(name), query=query, method=method, target=str(TARGET), layers=layer
        )
        scale = float(weights.abs().max())
        np.testing.assert_allclose(
            found.maps[0, 0], on_grid(weights, a.prefix), atol=1e-5 * scale, rtol=1e-4
        )
        scored = found.questions[0].target
        assert scored is not None
        assert float(scored.value) == pytest.approx(float(a.logits[0, TARGET]), rel=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_legrad_takes_each_layers_own_score(name: str) -> None:
    a = eager(name)
    found = attnviz.explain(observed(name), method="legrad", target="cat").maps[0, 0]
    expected = torch.stack([g[0].clamp_min(0).mean((0, 1)) for g in a.block_gradients]).mean(0)
    scale = float(expected.max())
    np.testing.assert_allclose(found, on_grid(expected, a.prefix), atol=1e-5 * scale, rtol=1e-4)


def test_up_to_each_of_several_layers() -> None:
    a = eager("vit")
    found = attnviz.explain(observed("vit"), method="rollout", layers="0,2").maps
    assert found.shape == (2, 1, ROWS, COLUMNS)
    for i, last in enumerate((0, 2)):
        r = oracle.rollout(a.attentions[: last + 1])[0, 0]
        np.testing.assert_allclose(found[i, 0], on_grid(r, 1), atol=1e-5)


def test_targets_are_classes_by_number_label_or_prediction() -> None:
    seen, logits = observed("vit"), eager("vit").logits[0]
    asked = ["1", "tom cat", "auto", str(int(logits.argmax()))]
    found = attnviz.explain(seen, method="relevance", target=asked)
    targets = [question.target for question in found.questions]
    assert [t.target.index for t in targets if t] == list(
        dict.fromkeys([1, 2, int(logits.argmax())])
    )
    for scored in targets:
        assert scored is not None
        assert scored.target.index is not None
        assert scored.target.label == seen.model.labels[scored.target.index]  # type: ignore[index]
        expected = float(logits.softmax(0)[scored.target.index])
        assert scored.probability == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", list(METHODS))
def test_several_questions_are_answered_as_each_alone(method: str) -> None:
    seen, entry = observed("registers"), METHODS[method]
    queries = ["cls", "register2", "12,40", "0,0,40,20", "mean"] if entry.asks else ["auto"]
    targets: list[str] = ["0", "3"] if entry.scored else []
    together = attnviz.explain(seen, query=queries, method=method, target=targets, layers="1,2")
    pairs = [(q, t) for q in queries for t in (targets or [""])]
    assert len(together.questions) == len(pairs)
    for (query, target), one in zip(pairs, together.each(), strict=True):
        alone = attnviz.explain(
            seen, query=query, method=method, target=[target] if target else [], layers="1,2"
        )
        assert alone.questions[0].query == one.questions[0].query
        np.testing.assert_allclose(one.maps, alone.maps, atol=1e-6, rtol=1e-4)
        maps = {"pca": 3, "clusters": 5, "factors": 5}.get(method, 1)
        assert one.maps.shape[:2] == (2, maps if entry.merges != "nothing" else 4)


def test_the_model_runs_once_for_all_questions() -> None:
    model = attnviz.load_model(str(checkpoint("vit")), head="class", size=31)
    runs = []
    model.module.model.vit.embeddings.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr]
    seen = attnviz.observe(picture(), model, gradients=True)
    for method in ("attention", "rollout", "relevance", "value-norm", "gradient-attention"):
        attnviz.explain(seen, query=["cls", "3,3", "70,40", "mean"], method=method)
    assert len(runs) == 1


def test_head_importance_is_autograds() -> None:
    a = eager("vit")
    found = attnviz.explain(
        observed("vit"), layers="all", statistics="all", target=str(TARGET)
    ).numbers["importance"]
    expected = [
        (x * g).sum((0, 2, 3)).abs().numpy() for x, g in zip(a.attentions, a.gradients, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "rollout", "keep": 0.5}, "it is for mass"),
        ({"method": "attention", "fusion": "max"}, "it is for rollout"),
        ({"method": "attention", "target": "1"}, "takes no gradient"),
        ({"method": "legrad", "query": "cls"}, "from all tokens alike"),
        ({"method": "rollout", "start_layer": 3}, "behind layer 2"),
        ({"method": "rollout", "heads": "0,"}, "merges all heads"),
        ({"method": "rollout", "fusion": "median"}, "mean, max, min"),
        ({"method": "nonsense"}, "choose from attention"),
        ({"method": "relevance", "target": "9"}, "4 classes"),
        ({"method": "relevance", "target": "cow"}, "cat"),
        ({"method": "relevance", "text": "a cat"}, "no text tower"),
        ({"query": "register0"}, "no register"),
    ],
)
def test_what_cannot_be_meant_says_what_can(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attnviz.explain(observed("vit"), **asked)


def test_without_gradients_it_says_how_to_have_them() -> None:
    model = attnviz.load_model(str(checkpoint("vit")), size=31)
    with pytest.raises(UsageError, match="gradients=True"):
        attnviz.explain(attnviz.observe(picture(), model), method="relevance")


def test_windows_can_be_asked_for_attention_and_not_for_rollout() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4
    )
    folder = mkdtemp()
    transformers.SwinModel(config).save_pretrained(folder)
    seen = attnviz.observe(picture(), attnviz.load_model(folder), gradients=True)
    for method in ("rollout", "relevance", "legrad", "attnlrp"):
        with pytest.raises(UsageError, match="windows") as error:
            attnviz.explain(seen, method=method)
        able = str(error.value).rpartition("choose from ")[2].split(", ")
        assert {"attention", "received", "gradient-attention", "value-norm"} <= set(able)
        assert not {"rollout", "relevance", "legrad", "attnlrp", "gradient-rollout"} & set(able)
        for other in able:
            assert np.isfinite(attnviz.explain(seen, method=other).maps).all()
