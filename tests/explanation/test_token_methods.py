"""Methods of tokens and their gradients, held to their formulas by autograd in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attnviz
from attnviz.errors import UsageError
from attnviz.io.picture import Picture

ROWS, COLUMNS, PATCH, TARGET, LAYERS = 3, 5, 8, 2, 3
CLASSIFIERS = {
    "vit": ("ViTConfig", "ViTForImageClassification"),
    "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification"),
    "ijepa": ("IJepaConfig", "IJepaForImageClassification"),
}
PREFIX = {"vit": 1, "registers": 5, "ijepa": 0}
SPANS = [(0, 2), (1, 2), (0, 1), (1, 1)]
"""First and last layer."""
Replace = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Eager:
    """A checkpoint on eager attention in float64, and its pixels."""

    model: nn.Module
    pixels: Tensor
    name: str

    @property
    def blocks(self) -> nn.ModuleList:
        lists = (m for m in self.model.modules() if isinstance(m, nn.ModuleList))
        return next(m for m in lists if len(m) == LAYERS)

    def run(self, pixels: Tensor, **more: Any) -> Any:
        if self.name != "registers":
            more["interpolate_pos_encoding"] = True
        return self.model(pixels, **more)

    def logit(self, pixels: Tensor, first: int, tokens: Tensor | None, last: int) -> Tensor:
        """The logit if `tokens` enter block `first`, and blocks after `last` do nothing."""
        hooks = [
            block.register_forward_hook(lambda _, given, __: given[0])
            for block in list(self.blocks)[last + 1 :]
        ]
        if tokens is not None:
            enter = self.blocks[first].register_forward_pre_hook(
                lambda _, given: (tokens, *given[1:])
            )
            hooks.append(enter)
        try:
            logit: Tensor = self.run(pixels).logits[0, TARGET]
        finally:
            for hook in hooks:
                hook.remove()
        return logit

    def entering(self, pixels: Tensor, number: int) -> Tensor:
        found: list[Tensor] = []
        hook = self.blocks[number].register_forward_pre_hook(
            lambda _, given: found.append(given[0].detach())
        )
        self.run(pixels)
        hook.remove()
        return found[0]


@cache
def checkpoint(name: str) -> Path:
    """A folder with a small classifier of random weights."""
    transformers = pytest.importorskip("transformers")
    config, model = CLASSIFIERS[name]
    torch.manual_seed(4)
    built = getattr(transformers, model)(
        getattr(transformers, config)(
            hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=48,
            patch_size=PATCH, image_size=32, num_labels=4,
        )
    )  # fmt: skip
    for parameter_name, parameter in built.named_parameters():
        if parameter.ndim > 1 or "lambda1" in parameter_name:
            nn.init.normal_(parameter, std=0.12)
    folder = Path(mkdtemp())
    built.save_pretrained(folder)
    return folder


@cache
def observed(name: str) -> attnviz.Observation:
    noise = np.random.default_rng(1).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    model = attnviz.load_model(str(checkpoint(name)), head="class", size=31)
    seen = attnviz.observe(Picture("noise.png", noise), model, gradients=True)
    assert (seen.placement.grid.rows, seen.placement.grid.columns) == (ROWS, COLUMNS)
    return seen


@cache
def eager(name: str) -> Eager:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, CLASSIFIERS[name][1])
    model = kind.from_pretrained(checkpoint(name), attn_implementation="eager").eval().double()
    seen = observed(name)
    return Eager(model, seen.model.pixels(seen.picture, seen.placement).double(), name)


def close(found: attnviz.Explanation, expected: Tensor, name: str) -> None:
    """The map is within 1e-5 of the largest number of all tokens.

    A patch of ViT's last layer says nothing to its class token; and what only a layer norm sees
    has gradient × input 0, since the norm takes its length away. There, maps are 0.
    """
    grid = expected[..., PREFIX[name] :].reshape(found.maps.shape[2:]).detach().numpy()
    atol = 1e-5 * expected.abs().max().item()
    np.testing.assert_allclose(found.maps[0, 0], grid, atol=atol, rtol=1e-5)


def nodes(steps: int) -> list[tuple[float, float]]:
    """Roots of Legendre's polynomial on 0 … 1, and weights 1/((1 − x²)·P'(x)²)."""
    polynomial = np.polynomial.Legendre.basis(steps)
    roots = polynomial.roots().astype(np.float64)
    slopes = np.asarray(polynomial.deriv()(roots), np.float64)
    weights = 1 / ((1 - roots**2) * slopes**2)
    return [((x + 1) / 2, w) for x, w in zip(roots, weights, strict=True)]


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_grad_cam(name: str, layer: int) -> None:
    by_hand, prefix = eager(name), PREFIX[name]
    tokens = by_hand.entering(by_hand.pixels, layer).requires_grad_()
    score = by_hand.logit(by_hand.pixels, layer, tokens, LAYERS)
    (gradient,) = torch.autograd.grad(score, [tokens])
    weights = gradient[0, prefix:].mean(0)
    found = attnviz.explain(
        observed(name), method="grad-cam", target=str(TARGET), layers=str(layer)
    )
    close(found, (tokens[0] @ weights).relu(), name)


@pytest.mark.parametrize(("first", "last"), SPANS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_attcat(name: str, first: int, last: int) -> None:
    by_hand = eager(name)
    out = by_hand.run(by_hand.pixels, output_hidden_states=True, output_attentions=True)
    tokens = out.hidden_states[1:]
    gradients = torch.autograd.grad(out.logits[0, TARGET], tokens, allow_unused=True)
    expected = torch.zeros(tokens[0].shape[1], dtype=torch.float64)
    for x, g, a in list(zip(tokens, gradients, out.attentions, strict=True))[first : last + 1]:
        if g is not None:
            expected = expected + (x * g)[0].sum(-1) * a[0].mean((0, 1))
    found = attnviz.explain(
        observed(name), method="attcat", target=str(TARGET), layers=str(last), start_layer=first
    )
    close(found, expected, name)


@pytest.mark.parametrize(("first", "last"), SPANS)
@pytest.mark.parametrize("query", ["mean", "12,40", "cls"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_transition(name: str, query: str, first: int, last: int) -> None:
    if query == "cls" and not PREFIX[name]:
        pytest.skip("no class token")
    by_hand, steps = eager(name), 5
    attentions = [a.mean(1)[0] for a in by_hand.run(by_hand.pixels, output_attentions=True)[-1]]
    slope = torch.zeros(1, dtype=torch.float64)
    for alpha, weight in nodes(steps):
        pixels = (alpha * by_hand.pixels).requires_grad_()
        out = by_hand.run(pixels, output_attentions=True)
        (gradient,) = torch.autograd.grad(out.logits[0, TARGET], [out.attentions[last]])
        slope = slope + weight * gradient[0]
    count = attentions[0].shape[0]
    w = torch.zeros(count, dtype=torch.float64)
    if query == "cls":
        w[0] = 1
    elif query == "mean":
        w[PREFIX[name] :] = 1 / (ROWS * COLUMNS)
    else:
        w[PREFIX[name] + 40 // 16 * COLUMNS + 12 // 16] = 1  # a cell has 16 pixels of the picture
    r = w @ attentions[last]
    for a in reversed(attentions[first:last]):
        r = r @ a + r
    found = attnviz.explain(
        observed(name), method="transition", target=str(TARGET), query=query,
        layers=str(last), start_layer=first, steps=steps,
    )  # fmt: skip
    close(found, r * (w @ slope.relu().mean(0)), name)


@pytest.mark.parametrize(("first", "last"), SPANS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_input_gradient(name: str, first: int, last: int) -> None:
    by_hand = eager(name)
    tokens = by_hand.entering(by_hand.pixels, first).requires_grad_()
    score = by_hand.logit(by_hand.pixels, first, tokens, last)
    (gradient,) = torch.autograd.grad(score, [tokens])
    found = attnviz.explain(
        observed(name), method="input-gradient", target=str(TARGET), layers=str(last),
        start_layer=first,
    )  # fmt: skip
    close(found, (tokens * gradient)[0].sum(-1), name)


@pytest.mark.parametrize(("first", "last"), SPANS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_integrated_gradients(name: str, first: int, last: int) -> None:
    by_hand, steps = eager(name), 5
    x = by_hand.entering(by_hand.pixels, first)
    start = by_hand.entering(torch.zeros_like(by_hand.pixels), first)
    total = torch.zeros_like(x)
    for alpha, weight in nodes(steps):
        z = (start + alpha * (x - start)).requires_grad_()
        score = by_hand.logit(by_hand.pixels, first, z, last)
        total += weight * torch.autograd.grad(score, [z])[0]
    found = attnviz.explain(
        observed(name), method="integrated-gradients", target=str(TARGET), layers=str(last),
        start_layer=first, steps=steps,
    )  # fmt: skip
    close(found, ((x - start) * total)[0].sum(-1), name)


@pytest.mark.parametrize("last", [2, 1])
@pytest.mark.parametrize("method", ["input-gradient", "integrated-gradients"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_at_the_pixels_of_each_token(name: str, method: str, last: int) -> None:
    by_hand, steps = eager(name), 4
    points = nodes(steps) if method == "integrated-gradients" else [(1.0, 1.0)]
    total = torch.zeros_like(by_hand.pixels)
    for alpha, weight in points:
        pixels = (alpha * by_hand.pixels).requires_grad_()
        score = by_hand.logit(pixels, 0, None, last)
        total += weight * torch.autograd.grad(score, [pixels])[0]
    products = (by_hand.pixels * total)[0].sum(0)
    expected = torch.stack(
        [
            products[r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].sum()
            for r in range(ROWS)
            for c in range(COLUMNS)
        ]
    )
    options: dict[str, Any] = {"steps": steps} if method == "integrated-gradients" else {}
    found = attnviz.explain(
        observed(name), method=method, target=str(TARGET), layers=str(last), at="pixels", **options
    )
    close(found, torch.cat([torch.zeros(PREFIX[name]), expected]), name)


def test_pixels_have_no_first_layer() -> None:
    with pytest.raises(UsageError, match="leave --start-layer out"):
        attnviz.explain(observed("vit"), method="attnlrp", at="pixels", start_layer=1)


def test_integrated_gradients_sum_to_the_difference_of_scores() -> None:
    """Without tokens beside the grid all of it is drawn."""
    by_hand = eager("ijepa")
    found = attnviz.explain(
        observed("ijepa"), method="integrated-gradients", target=str(TARGET), steps=40
    )
    with torch.no_grad():
        whole, empty = (by_hand.run(a * by_hand.pixels).logits[0, TARGET].item() for a in (1, 0))
    assert found.maps.sum() == pytest.approx(whole - empty, rel=1e-3)


@pytest.mark.parametrize("method", ["grad-cam", "input-gradient"])
def test_windows_are_refused_with_what_works(method: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 1], num_heads=[2, 2], window_size=4,
        num_labels=3,
    )  # fmt: skip
    folder = mkdtemp()
    transformers.SwinForImageClassification(config).save_pretrained(folder)
    model = attnviz.load_model(folder, head="class")
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    seen = attnviz.observe(Picture("noise.png", noise), model, gradients=True)
    with pytest.raises(UsageError, match=rf"--method {method}: .*; choose from attention,"):
        attnviz.explain(seen, method=method, target="1", layers="1")
