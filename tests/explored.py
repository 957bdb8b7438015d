"""Observations whose pages are looked at: small models of several families, by name."""

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import layers
import numpy as np
import pictures
import pytest
import torch

import attnviz
from attnviz.io.picture import Picture

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
# Model: config, model class, settings.
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTModel", {**SMALL, "image_size": 64, "patch_size": 8}),
    "registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {**SMALL, "image_size": 70, "patch_size": 14, "num_register_tokens": 4},
    ),
    "beit": (
        "BeitConfig",
        "BeitModel",
        {**SMALL, "image_size": 64, "patch_size": 16, "use_relative_position_bias": True},
    ),
    "siglip": (
        "SiglipVisionConfig",
        "SiglipVisionModel",
        {**SMALL, "image_size": 64, "patch_size": 16},
    ),
    "swin": (
        "SwinConfig",
        "SwinModel",
        {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 5},
    ),
}  # fmt: skip
NAMES = (*FAMILIES, "tiny", "masked", "pixels", "padded", "cropped", "made up")


def save(name: str, folder: Path, **more: Any) -> Path:
    """A model of a family in a folder, whose heads attend sharply."""
    transformers = pytest.importorskip("transformers")
    config, kind, settings = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def picture(width: int = 150, height: int = 100) -> Picture:
    return Picture("noise.png", np.asarray(pictures.noise(width, height)))


@cache
def seen(name: str) -> attnviz.Observation:
    """A picture that is no square, as a model saw it."""
    if name in FAMILIES:
        with TemporaryDirectory() as folder:
            model = attnviz.load_model(str(save(name, Path(folder))))
        return attnviz.observe(picture(), model)
    return OTHERS[name]()


def _tiny(**more: Any) -> attnviz.Observation:
    return attnviz.observe(picture(), attnviz.load_model("tiny", size=72), **more)


def _mask() -> Any:
    mask = np.ones((100, 150), dtype=bool)
    mask[:, :50] = False
    mask[60:, 100:] = False
    return mask


def _pixels() -> attnviz.Observation:
    model = attnviz.load_model("random", tokens="pixels", size=24, heads=2)
    return attnviz.observe(picture(), model)


def _made_up() -> attnviz.Observation:
    """Windows, padding in windows, a pyramid, tokens behind the grid, a pool."""
    return layers.observation(*layers.one_of_each().values())


def _scene() -> attnviz.Observation:
    return attnviz.observe(
        attnviz.load_image("sample_images/scene.png"), attnviz.load_model("tiny-words")
    )


def _tiles() -> attnviz.Observation:
    """A prompt, an answer with a word twice, and two views of the picture."""
    with TemporaryDirectory() as folder:
        import_module("word_models").llava_next(Path(folder))
        model = attnviz.load_model(folder, head="words")
    return attnviz.observe(picture(), model, prompt="What is it?", answer="a red mat, a mug.")


def _objects(name: str) -> attnviz.Observation:
    transformers = pytest.importorskip("transformers")
    with TemporaryDirectory() as folder:
        import_module("detectors").save(transformers, name, Path(folder))
        return attnviz.observe(picture(), attnviz.load_model(folder))


OTHERS: dict[str, Callable[[], attnviz.Observation]] = {
    "tiny": _tiny,
    "masked": lambda: _tiny(mask=_mask()),
    "pixels": _pixels,
    "padded": lambda: _tiny(fit="pad"),
    "cropped": lambda: _tiny(fit="crop"),
    "made up": _made_up,
    "scene": _scene,
    "tiles": _tiles,
    **{name: partial(_objects, name) for name in ("DETR", "Deformable DETR", "YOLOS")},
}
