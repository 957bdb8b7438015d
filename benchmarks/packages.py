"""Holds methods of tokens beside other packages: how far apart the maps are, and the time of each.

    pip install grad-cam captum torchcam scikit-learn timm lxt zennit
    python benchmarks/packages.py
    python benchmarks/packages.py --write     # also RESULTS.md
    python benchmarks/packages.py --base      # of a ViT-base

A ViT-tiny of timm of 224 pixels with random weights, float32, one thread. Both sides begin with a
picture of bytes and end with one map of 14 × 14 tokens; ours runs the model recorded, once for all
methods elsewhere and for each row here. `apart` is the largest difference over the largest number,
of maps scaled to 0…1 where the package scales them. Times are CPU seconds, so that other programs
count less: medians of runs in turn, ratios pair by pair. scikit-learn's clusters and factors get
our first centres and factors, and as many rounds: until no token moves, and 200; `apart` is by how
much our loss is above theirs, over it.
"""

import argparse
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from captum.attr import LayerGradientXActivation, LayerIntegratedGradients
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchGradCAM
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma

import attnviz
from attnviz.io.picture import Picture
from attnviz.methods.components import factorise, first_factors, k_means, starts

SIDE, CLASS, LAYER, STEPS, GAMMA = 14, 3, 8, 20, 0.25
RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = "| method | beside | apart | ours, s | theirs, s | ours / theirs |"
Map = np.ndarray[Any, np.dtype[np.float64]]


class Seen(nn.Module):
    """A block whose patches pass through `map` as a picture of features, for torchcam."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.map = block, nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        batch, _, features = tokens.shape
        shown = self.map(tokens[:, 1:].mT.reshape(batch, features, SIDE, SIDE))
        result: Tensor = self.block(torch.cat([tokens[:, :1], shown.flatten(2).mT], 1))
        return result


def scaled(values: Any) -> Map:
    """A map scaled to 0…1."""
    found = np.asarray(values, dtype=np.float64).reshape(SIDE, SIDE)
    result: Map = (found - found.min()) / (found.max() - found.min())
    return result


def grid(values: Tensor) -> Map:
    """The numbers of patches, without the class token."""
    found: Map = values.detach().double().numpy().reshape(-1)[-SIDE * SIDE :]
    return found.reshape(SIDE, SIDE)


class Sides:
    """One model and picture, and each method by us and by a package."""

    def __init__(self, *, base: bool) -> None:
        torch.manual_seed(0)
        factory = build_base if base else build
        self.module: Any = factory().eval()
        for name, parameter in self.module.named_parameters():
            if parameter.ndim > 1 and "pos" not in name:
                nn.init.normal_(parameter, std=0.06)
        noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        self.picture = Picture("noise.png", noise)
        self.model = attnviz.load_model(
            f"py:{Path(__file__).stem}:{factory.__name__}", head="class", size=224
        )
        self.model.module.load_state_dict(self.module.state_dict())

    @property
    def pixels(self) -> Tensor:
        """What a package is given: the picture, normalised."""
        values = torch.from_numpy(self.picture.pixels).permute(2, 0, 1) / 255
        mean, std = (each[:, None, None] for each in self.model.statistics(3))
        return ((values - mean) / std)[None]

    def ours(self, method: str, **options: Any) -> Map:
        """Our map, of a run that keeps what the method needs, as `show` does."""
        kept = options.get("layers", "all")
        seen = attnviz.observe(self.picture, self.model, gradients=True, layers=kept)
        found = attnviz.explain(seen, method=method, target=str(CLASS), **options)
        return found.maps.reshape(SIDE, SIDE).astype(np.float64)

    def grad_cam(self) -> Map:
        """pytorch-grad-cam's, of the block before ours."""
        with GradCAM(
            self.module,
            [self.module.blocks[LAYER - 1]],
            reshape_transform=lambda x: x[:, 1:].mT.unflatten(-1, (SIDE, SIDE)),
        ) as cam:
            cam.get_target_width_height = lambda _: (SIDE, SIDE)
            return scaled(cam(self.pixels, [ClassifierOutputTarget(CLASS)])[0])

    def torchcam(self) -> Map:
        """torchcam's, of the patches that enter our layer, as a picture of features."""
        block = self.module.blocks[LAYER]
        self.module.blocks[LAYER] = seen = Seen(block)
        try:
            with TorchGradCAM(self.module, target_layer=seen.map) as cam:
                found = cam(CLASS, self.module(self.pixels))[0]
        finally:
            self.module.blocks[LAYER] = block
        return scaled(found.detach())

    def input_gradient(self) -> Map:
        """Gradient × activation of captum at the input of the first block."""
        way = LayerGradientXActivation(self.module, self.module.blocks[0])
        found = way.attribute(self.pixels, target=CLASS, attribute_to_layer_input=True)
        return grid(found.sum(-1))

    def integrated_gradients(self) -> Map:
        """captum's, at the input of the first block, from a picture of zeros."""
        way = LayerIntegratedGradients(self.module, self.module.blocks[0])
        found = way.attribute(
            self.pixels,
            torch.zeros_like(self.pixels),
            target=CLASS,
            n_steps=STEPS,
            method="gausslegendre",
            attribute_to_layer_input=True,
        )
        return grid(found.sum(-1))

    def lxt(self) -> Callable[[], Map]:
        """CP-LRP by LXT with zennit's γ-rule, of the pixels of each patch."""
        models = types.ModuleType("lxt.efficient.models")  # it asks transformers 5 for names of 4
        models.__dict__["get_default_map"] = dict
        sys.modules["lxt.efficient.models"] = models
        efficient, patches = import_module("lxt.efficient"), import_module("lxt.efficient.patches")
        module: Any = deepcopy(self.module).requires_grad_(False)
        efficient.monkey_patch_zennit()
        for part in module.modules():
            if "LayerNorm" in type(part).__name__:
                part.forward = types.MethodType(patches.layer_norm_forward, part)
            if "GELU" in type(part).__name__:
                part.original_forward = part.forward
                part.forward = types.MethodType(patches.non_linear_forward, part)
        for block in module.blocks:  # CP-LRP: queries and keys pass through these last
            block.attn.q_norm.forward = block.attn.k_norm.forward = torch.detach

        def run() -> Map:
            rules = LayerMapComposite([(nn.Conv2d, Gamma(GAMMA)), (nn.Linear, Gamma(GAMMA))])
            pixels = self.pixels.detach().clone().requires_grad_()
            with rules.context(module) as changed:
                changed(pixels)[0, CLASS].backward()
            assert pixels.grad is not None
            relevance = (pixels * pixels.grad).sum(1)
            return grid(relevance.view(SIDE, -1, SIDE, relevance.shape[-1] // SIDE).sum((1, 3)))

        return run


def build() -> nn.Module:
    """The model, for `py:`."""
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    return model


def build_base() -> nn.Module:
    """The larger one."""
    model: nn.Module = timm.create_model("vit_base_patch16_224", num_classes=10)
    return model


def timed(*sides: Callable[[], Any], rounds: int) -> tuple[list[Any], list[float], float]:
    """Results, median seconds, and the median ratio of the first to the second."""
    taken: list[list[float]] = [[], []]
    results: list[Any] = [None, None]
    for number in range(rounds + 1):
        for place, side in enumerate(sides):
            start = time.process_time()
            results[place] = side()
            if number:  # the first warms up
                taken[place].append(time.process_time() - start)
    ratio = statistics.median(a / b for a, b in zip(*taken, strict=True))
    return results, [statistics.median(each) for each in taken], ratio


def row(name: str, package: str, ours: Any, theirs: Any, *, rounds: int, loss: Any = None) -> str:
    """A row of the table, measured."""
    (one, other), seconds, ratio = timed(ours, theirs, rounds=rounds)
    if loss is None:
        apart = float(np.abs(one - other).max() / np.abs(other).max())
    else:
        apart = (loss(one) - loss(other)) / loss(other)
    cells = [name, f"{package} {version(package)}", f"{apart:.0e}", *(f"{s:.3g}" for s in seconds)]
    return f"| {' | '.join(cells)} | {ratio:.2f} |"


def rows(rounds: int, *, base: bool) -> list[str]:
    """All rows."""
    sides = Sides(base=base)
    layer = {"layers": str(LAYER)}
    seen = attnviz.observe(sides.picture, sides.model, tokens=True, layers=str(LAYER))
    tokens = seen.layers[LAYER].tokens
    assert tokens is not None
    x = tokens[0, 1:].double()
    features = x.numpy()
    positive = x - x.amin(0)

    def inertia(labels: Any) -> float:
        places = np.asarray(labels)
        parts = [features[places == k] for k in range(5)]
        return float(sum(((part - part.mean(0)) ** 2).sum() for part in parts))

    def residual(parts: Any) -> float:
        w, h = parts
        return float(np.linalg.norm(positive.numpy() - np.asarray(w) @ np.asarray(h)))

    def nmf() -> Any:
        way, (w, h) = NMF(5, init="custom", max_iter=200, tol=0), first_factors(positive.numpy(), 5)
        return way.fit_transform(positive.numpy(), W=w.T.copy(), H=h), way.components_

    def sklearn_means() -> Any:
        generator = torch.Generator().manual_seed(0)
        first = [starts(x, 5, generator).numpy() for _ in range(4)]
        found = [KMeans(5, init=each, max_iter=200, tol=0).fit(features) for each in first]
        return min(found, key=lambda each: each.inertia_).labels_

    def pca() -> Any:
        return np.abs(attnviz.explain(seen, method="pca", layers=str(LAYER)).maps[0].reshape(3, -1))

    def sklearn_pca() -> Any:
        scores = PCA(3, whiten=True, svd_solver="full").fit_transform(features)
        return np.abs(scores.T) * np.sqrt(len(x) / (len(x) - 1))  # it divides by n − 1

    kinds: list[tuple[Any, ...]] = [
        ("grad-cam", "grad-cam", lambda: scaled(sides.ours("grad-cam", **layer)), sides.grad_cam),
        ("grad-cam", "torchcam", lambda: scaled(sides.ours("grad-cam", **layer)), sides.torchcam),
        ("input-gradient", "captum", lambda: sides.ours("input-gradient"), sides.input_gradient),
        (
            "integrated-gradients",
            "captum",
            lambda: sides.ours("integrated-gradients", steps=STEPS),
            sides.integrated_gradients,
        ),
        ("pca", "scikit-learn", pca, sklearn_pca),
    ]
    name, asked = "attnlrp --rule cp --gamma 0.25", {"rule": "cp", "gamma": GAMMA, "at": "pixels"}
    kinds.append((name, "lxt", lambda: sides.ours("attnlrp", **asked), sides.lxt()))
    found = [row(*kind, rounds=rounds) for kind in kinds]
    parts = ("clusters", "scikit-learn", lambda: k_means(x, 5, 0), sklearn_means)
    found.append(row(*parts, rounds=rounds, loss=inertia))
    ours = ("factors", "scikit-learn", lambda: factorise(positive, 5), nmf)
    return [*found, row(*ours, rounds=rounds, loss=residual)]


def main() -> None:
    """Measure, print and perhaps write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--base", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = "\n".join([HEAD, "|---" * 6 + "|", *rows(options.rounds, base=options.base)])
    print(table)
    if options.write:
        start, end = "<!-- packages -->\n", "<!-- /packages -->"
        text = RESULTS.read_text(encoding="utf-8")
        head, rest = text.split(start)
        machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
        line = f"torch {torch.__version__}, {machine}, attnviz {attnviz.__version__}, "
        line += f"{datetime.now(UTC):%Y-%m-%d}.\n\n{table}\n"
        RESULTS.write_text(head + start + line + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
