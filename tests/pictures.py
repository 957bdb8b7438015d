"""Small pictures and layers that tests are made of."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

import attnviz
from attnviz.models.random import EmbeddedAttention, sine_cosine

Upright = Image.Transpose
STORED: dict[int, Upright | None] = {
    1: None,
    2: Upright.FLIP_LEFT_RIGHT,
    3: Upright.ROTATE_180,
    4: Upright.FLIP_TOP_BOTTOM,
    5: Upright.TRANSPOSE,
    6: Upright.ROTATE_90,
    7: Upright.TRANSVERSE,
    8: Upright.ROTATE_270,
}
"""How an upright picture is turned before it is stored under each EXIF orientation."""


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with structure everywhere."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 9), max(2, width // 9), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def bright_square(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Dark, with one bright rectangle (left, top, right, bottom)."""
    image = Image.new("RGB", (width, height), (20, 20, 20))
    image.paste((250, 250, 250), box)
    return image


def save(image: Image.Image, path: Path, orientation: int = 1) -> Path:
    """Store a picture so that it is seen upright under an EXIF orientation."""
    turn = STORED[orientation]
    stored = image if turn is None else image.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif)
    return path


def layer_state(features: int, **parts: NDArray[np.float64]) -> dict[str, torch.Tensor]:
    """A state dict of the layer, 0 but for the parts given (`q_linear_weight=…`)."""
    state = {}
    for name in ("q_linear", "k_linear", "v_linear", "out"):
        for part, shape in (("weight", (features, features)), ("bias", (features,))):
            values = parts.get(f"{name}_{part}", np.zeros(shape))
            state[f"{name}.{part}"] = torch.from_numpy(values).float()
    return state


def uniform_layer(path: Path, features: int = 64) -> Path:
    """A layer whose queries are 0: it attends to everything alike."""
    rng = np.random.default_rng(0)
    shape = (features, features)
    parts = {f"{name}_weight": rng.normal(size=shape) for name in ("k_linear", "v_linear", "out")}
    save_file(layer_state(features, **parts), path)
    return path


def brightness_layer(
    path: Path, *, heads: int = 2, features: int = 64, patch: int = 16, gain: float = 8.0
) -> Path:
    """A layer whose every query attends to bright tokens of the model `random`, seed 0.

    A direction u of the token space is sought with u·embed(white) = 1 that positions hardly
    move; keys are read along it, and all queries are constant.
    """
    module = attnviz.load_model("random", heads=heads, features=features, patch=patch).module
    assert isinstance(module, EmbeddedAttention)
    white = module.embed.weight.double().sum(1).numpy()
    positions = sine_cosine(40, 40, features).double().numpy()
    positions = positions - positions.mean(0)
    spread = positions.T @ positions / len(positions) + 0.02 * np.eye(features)
    u = np.linalg.solve(spread, white)
    u /= u @ white
    width = features // heads
    first = np.arange(0, features, width)
    query, key = np.zeros(features), np.zeros((features, features))
    query[first] = gain * np.sqrt(width)
    key[first] = u / 2  # pixel values run over 4 standard deviations
    rng = np.random.default_rng(0)
    parts = {f"{name}_weight": rng.normal(size=key.shape) for name in ("v_linear", "out")}
    save_file(layer_state(features, q_linear_bias=query, k_linear_weight=key, **parts), path)
    return path
