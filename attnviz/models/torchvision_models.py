"""Loads `torchvision:NAME`: the classification models of torchvision."""

import math
import sys
from dataclasses import replace
from typing import Any

from torch import nn

from attnviz.errors import ModelError, did_you_mean
from attnviz.models.class_token_names import has_class_token
from attnviz.models.failures import optional, tried
from attnviz.models.fitting import load_weights
from attnviz.models.model import Model, token_bytes
from attnviz.models.model_request import ModelRequest, fixed_size, no_text_tower, refuse_options
from attnviz.models.preprocessing import per_channel
from attnviz.models.settings import FILTERS
from attnviz.models.targets import labels_of
from attnviz.models.weights import DTYPES, find_device, seeded


def load(request: ModelRequest) -> Model:
    """Load a model of torchvision; see `attnviz.load_model`."""
    refuse_options(request)
    name = request.spec.removeprefix("torchvision:")
    models: Any = optional("torchvision.models", "timm", request.spec)
    if request.head == "text":
        raise no_text_tower(request.spec, "torchvision's are classifiers")
    device, dtype = find_device(request.device), DTYPES[request.dtype]
    names = models.list_models(module=models)
    if name not in names:
        raise ModelError(
            f"{request.spec}: torchvision has no such classification model"
            f"{did_you_mean(name, names)}; give one of "
            "torchvision.models.list_models(torchvision.models), such as vit_b_16"
        )
    weights = models.get_model_weights(name).DEFAULT
    pretrained = request.weights is None and not request.random_weights
    model = tried(
        request.spec,
        name,
        lambda: _create(models, name, weights if pretrained else None, request.seed),
    )
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        notes = load_weights(model, request.weights, request.key)
    described = _described(request, model, weights, device=device, dtype=dtype)
    # torchvision requires every name and shape to fit, or it raises.
    return replace(described, loaded=None if request.random_weights else 1.0, notes=notes)


def _described(
    request: ModelRequest, model: nn.Module, weights: Any, *, device: Any, dtype: Any
) -> Model:
    """The model, described by its own attributes and by its default weights' metadata."""
    transforms = weights.transforms()
    kind = type(model).__name__
    # Both have parameters for each position of their own input.
    fixed = kind in ("VisionTransformer", "MaxVit")
    size = getattr(model, "image_size", transforms.crop_size[0])
    layers, heads, features = _shape(model)
    classifies = getattr(model, "num_classes", 1) != 0
    return Model(
        spec=request.spec,
        weights=request.weights or ("random" if request.random_weights else "pretrained"),
        module=model.to(device, dtype).eval().requires_grad_(False),
        layers=layers,
        heads=heads,
        features=features,
        tokens="patches",
        patch=_multiple(model),
        size=fixed_size(request, int(size), fixed=fixed),
        prefix=int(has_class_token(model)),
        class_token=has_class_token(model),
        fixed=fixed,
        mean=per_channel(transforms.mean, 0.5),
        std=per_channel(transforms.std, 0.5),
        resample=FILTERS.get(transforms.interpolation.value, FILTERS["bilinear"]),
        seed=request.seed if request.random_weights else None,
        token_bytes=token_bytes(layers, features) if layers and features else 0,
        head="class" if classifies else "none",
        labels=labels_of(weights.meta.get("categories")) if classifies else None,
        device=device,
        dtype=dtype,
    )


def _create(models: Any, name: str, weights: Any, seed: int) -> nn.Module:
    """The model; a download bar for its weights shows only if stderr is a terminal."""
    with seeded(seed):
        model: nn.Module = models.get_model(name, weights=weights, progress=sys.stderr.isatty())
    return model


def _shape(model: nn.Module) -> tuple[int | None, int | None, int | None]:
    """Layers, heads and features of a plain vision transformer; else only a run shows them."""
    if type(model).__name__ != "VisionTransformer":
        return None, None, None
    layers: Any = model.encoder.layers  # type: ignore[union-attr]
    return len(layers), int(layers[0].num_heads), int(model.hidden_dim)  # type: ignore[arg-type]


def _multiple(model: nn.Module) -> int:
    """The number that the sides of the input must be multiples of.

    For a ViT it is the patch side. Swin embeds patches by a convolution and merges 2×2 of them
    between stages. MaxViT and the convolutional models halve the sides at most five times.
    """
    patch = getattr(model, "patch_size", None)
    if isinstance(patch, int):
        return patch
    merges = sum(type(part).__name__.startswith("PatchMerging") for part in model.modules())
    if not merges:
        return 2**5
    embedding = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    return math.lcm(*embedding.stride) << merges
