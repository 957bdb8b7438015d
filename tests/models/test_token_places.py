"""Tokens lie where they are said to: what changes with a cell's pixels is that cell's token."""

from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from torch import nn

import attnviz
from attnviz.cli import main
from attnviz.explanation.layers import Layer

transformers: Any = pytest.importorskip("transformers")
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
VIT = {"image_size": 64, "patch_size": 16, **SMALL}
SWIN = {"image_size": 96, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
# Models whose patches do not overlap, so that nothing else changes as much.
FAMILIES: dict[str, dict[str, Any]] = {
    "Dinov2WithRegistersConfig": {**VIT, "num_register_tokens": 3},
    "YolosConfig": {**VIT, "image_size": [64, 96], "num_detection_tokens": 5},
    "SiglipVisionConfig": VIT,
    "SwinConfig": SWIN,
    "Swinv2Config": SWIN,
    "SamVisionConfig": {**VIT, "window_size": 3, "global_attn_indexes": [1], "output_channels": 16},
    "VitDetConfig": {**VIT, "pretrain_image_size": 64, "window_size": 3,
                     "window_block_indices": [0]},
}  # fmt: skip


def saved(config: str, folder: Path, **settings: Any) -> attnviz.Model:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return attnviz.load_model(str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_token_that_changes_with_a_cell_is_the_token_of_the_cell(
    family: str, tmp_path: Path
) -> None:
    model = saved(family, tmp_path, **FAMILIES[family])
    pixels = np.random.default_rng(0).integers(0, 256, (72, 120, 3), dtype=np.uint8)

    def keys(values: np.ndarray[Any, Any]) -> list[Layer]:
        Image.fromarray(values).save(tmp_path / "picture.png")
        seen = attnviz.observe(attnviz.load_image(tmp_path / "picture.png"), model, fit="squash")
        return [layer for _, layer in sorted(seen.layers.items())][:2]

    before = keys(pixels)
    for row, column in ((0, 0), (1, 2), (0, 3), (1, 0)):
        changed = pixels.copy()
        layout = before[0].keys
        height, width = 72 / layout.rows, 120 / layout.columns
        y, x = round(row * height), round(column * width)
        changed[y : round(y + height), x : round(x + width)] ^= 128
        for old, new in zip(before, keys(changed), strict=True):
            difference = (new.call.key - old.call.key).norm(dim=-1).sum(1).numpy()
            difference[~new.keys.on_picture] = 0
            found = new.keys.cells.ravel()[difference.argmax()]
            assert divmod(int(found), new.keys.columns) == (row, column)


def bright(folder: Path) -> None:
    """A DINOv2-shaped model whose only layer attends to bright patches, from everywhere."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, patch_size=14, image_size=70
    )
    model = transformers.AutoModel.from_config(config)
    direction = torch.ones(48)
    direction[::2] = -1
    with torch.no_grad():
        model.embeddings.position_embeddings.zero_()
        patches = model.embeddings.patch_embeddings.projection
        patches.weight.copy_(direction[:, None, None, None].expand(-1, 3, 14, 14) / (3 * 14 * 14))
        patches.bias.zero_()
        attention = model.encoder.layer[0].attention
        attention.q_proj.weight.zero_()
        attention.q_proj.bias.copy_(2 * direction)
        nn.init.eye_(attention.k_proj.weight)
        attention.k_proj.bias.zero_()
    model.save_pretrained(folder)


def test_a_wide_picture_is_whole_and_its_overlay_lies_right(tmp_path: Path) -> None:
    bright(tmp_path / "model")
    values = np.zeros((360, 640, 3), dtype=np.uint8)
    values[90:180, 420:520] = 255
    Image.fromarray(values).save(tmp_path / "wide.png")
    command = ["show", str(tmp_path / "wide.png"), "-m", str(tmp_path / "model"), "--size", "224"]
    command += ["--interpolation", "nearest", "--alpha", "1", "--colormap", "gray"]
    assert main([*command, "-o", str(tmp_path / "out"), "--quiet"]) == 0
    overlay = Image.open(tmp_path / "out" / "wide.png" / "layer00-head00.png")
    assert overlay.size == (640, 360)
    hot = np.asarray(overlay.convert("L")) > 127
    y, x = np.nonzero(hot)
    patch = 640 / 21  # 21 × 12 patches of 14 pixels
    for found, real in zip((x.min(), x.max(), y.min(), y.max()), (420, 520, 90, 180), strict=True):
        assert abs(found - real) <= patch / 2 + 1


def test_a_model_of_one_shape_says_that_it_sees_the_centre(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"image_size": 64, "hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1]}
    saved("PvtConfig", tmp_path / "pvt", **settings)
    pictures.noise(100, 60).save(tmp_path / "wide.png")
    command = ["stats", str(tmp_path / "wide.png"), "-m", str(tmp_path / "pvt")]
    assert main([*command, "--csv"]) == 0
    assert "takes 64x64 pixels only: it is shown the centre" in capsys.readouterr().err
    assert main([*command, "--csv", "--fit", "pad"]) == 0
    assert not capsys.readouterr().err


def test_layers_that_differ_are_drawn_each_on_its_grid(tmp_path: Path) -> None:
    saved("SwinConfig", tmp_path / "swin", **SWIN)
    pictures.noise(120, 72).save(tmp_path / "noise.png")
    command = ["show", str(tmp_path / "noise.png"), "-m", str(tmp_path / "swin"), "--npz"]
    assert main([*command, "--layers", "all", "-o", str(tmp_path / "out"), "--quiet"]) == 0
    folder = tmp_path / "out" / "noise.png"
    assert len(list(folder.glob("layer*-head*.png"))) == 2 * 2 + 2 * 4
    with np.load(folder / "maps.npz") as arrays:
        assert arrays["layer00"].shape == (2, 18, 30)
        assert arrays["layer03"].shape == (4, 9, 15)


def test_a_thin_picture_gives_swin_whole_windows(tmp_path: Path) -> None:
    model = saved("SwinConfig", tmp_path, **SWIN)
    pictures.noise(400, 20).save(tmp_path / "thin.png")
    picture = attnviz.load_image(tmp_path / "thin.png")
    for _ in range(2):
        grid = attnviz.observe(picture, model).placement.grid
        assert (grid.input_width, grid.input_height) == (640, 32)
