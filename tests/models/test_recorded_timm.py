"""Attention of timm's models, recorded and compared with the same model without fused attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import pictures
import pytest
import torch
import torchvision_schemas
from softmaxes import Softmaxes, as_call

import attnviz
from attnviz.cli import main

timm: Any = torchvision_schemas.import_or_skip("timm")


@dataclass(frozen=True)
class Expected:
    """Stride of the queries of every layer, and how many keys are class tokens or registers."""

    strides: tuple[int, ...] | None
    outside: int | None = None
    size: int | None = None
    pools: int = 0


def plain(patch: int, prefix: int, *, size: int | None = None, pools: int = 0) -> Expected:
    return Expected((patch,) * (12 + pools), prefix, size, pools)


def stages(*counts: int, first: int = 4) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage, count in enumerate(counts) for _ in range(count))


MODELS = {
    "vit_tiny_patch16_224": plain(16, 1, size=96),
    "deit_tiny_distilled_patch16_224": plain(16, 2, size=112),
    "vit_small_patch14_reg4_dinov2": plain(14, 5, size=112),
    "vit_small_patch16_dinov3": plain(16, 5, size=128),
    "eva02_tiny_patch14_224": plain(14, 1, size=112),
    "vit_base_patch16_siglip_224": plain(16, 0, size=96, pools=1),
    "vit_relpos_small_patch16_224": plain(16, 0),
    "beit_base_patch16_224": plain(16, 1),
    "vit_small_resnet26d_224": Expected((32,) * 8, 1),
    "swin_tiny_patch4_window7_224": Expected(stages(2, 2, 6, 2)),
    "swinv2_tiny_window8_256": Expected(stages(2, 2, 6, 2)),
    "swinv2_cr_tiny_ns_224": Expected(stages(2, 2, 6, 2)),
    "maxvit_tiny_tf_224": Expected(stages(4, 4, 10, 4)),
    "coatnet_pico_rw_224": Expected(stages(5, 2, first=16)),
    "pvt_v2_b0": Expected(stages(2, 2, 2, 2)),
    "twins_pcpvt_small": Expected(stages(3, 4, 6, 3)),
    "twins_svt_small": Expected(stages(2, 2, 10, 4)),
    "mvitv2_tiny": Expected(stages(1, 2, 5, 2)),
    "hiera_tiny_224": Expected(stages(1, 2, 7, 2)),
    "nest_tiny": Expected(stages(2, 2, 8)),
    "levit_128s": Expected((16, 16, 32, 32, 32, 32, 64, 64, 64, 64, 64)),
    "cait_xxs24_224": Expected((16,) * 26, pools=2),
    "crossvit_9_240": Expected(None),
    "tnt_s_patch16_224": Expected((4, 16) * 12),
    "pit_ti_224": Expected(None, 1),
    "gcvit_xxtiny": Expected(None),
    "tiny_vit_5m_224": Expected(stages(2, 6, 2, first=8)),
    "halonet26t": Expected((16, 32, 32)),
    "botnet26t_256": Expected((16, 16, 32)),
    "efficientformer_l1": Expected((32,)),
}


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(name: str) -> attnviz.Model:
    return attnviz.load_model(f"timm:{name}", random_weights=True, size=MODELS[name].size)


@pytest.fixture(scope="module")
def seen(name: str, tmp_path_factory: pytest.TempPathFactory) -> attnviz.Observation:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    pictures.noise(200, 120).save(path)
    return attnviz.observe(attnviz.load_image(str(path)), load(name))


def test_weights_of_every_layer_equal_the_unfused_ones(
    name: str, seen: attnviz.Observation
) -> None:
    timm.layers.set_fused_attn(False)
    try:
        oracle = load(name)
    finally:
        timm.layers.set_fused_attn(True)
    pixels = seen.model.pixels(seen.picture, seen.placement)
    with torch.no_grad(), Softmaxes() as own:
        oracle.module(pixels)
    assert len(own.found) == len(seen.layers) == seen.count
    for layer, expected in zip(seen.layers.values(), own.found, strict=True):
        weights = layer.call.matrix()
        torch.testing.assert_close(weights, as_call(expected, weights.shape), atol=1e-5, rtol=0)
    assert not seen.unexplained


def test_grids_and_other_tokens_are_the_models(name: str, seen: attnviz.Observation) -> None:
    expected, grid = MODELS[name], seen.placement.grid
    if expected.strides is None:
        pytest.skip("a grid of its own for each kind of layer: see the documentation")
    found = [
        (layer.queries.rows, layer.queries.columns) if layer.queries.on_picture.any() else None
        for layer in seen.layers.values()
    ]
    grids = [
        (-(-grid.input_height // stride), -(-grid.input_width // stride))
        for stride in expected.strides
    ]
    layers = len(grids) - expected.pools
    assert found[layers:] == [None] * expected.pools
    assert found[:layers] == grids[:layers]
    if expected.outside is not None:
        assert {layer.keys.outside for layer in seen.layers.values()} == {expected.outside}


def test_tokens_of_crossvit_lie_in_the_middle_of_the_patches_of_their_branch(
    tmp_path: Path,
) -> None:
    """Patches of 12 pixels, and of 16 of the picture made 224 pixels wide."""
    pictures.noise(240, 240).save(tmp_path / "noise.png")
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), load("crossvit_9_240"))
    for layer in seen.layers.values():
        places = layer.call.key_positions
        assert places is not None
        side = layer.keys.rows
        assert side in (14, 20)
        at = (torch.arange(side) + 0.5) * 240 / side
        y, x = torch.meshgrid(at, at, indexing="ij")
        expected = torch.stack([x.flatten(), y.flatten()], 1)
        torch.testing.assert_close(places[0, 1:], expected, atol=0.01, rtol=0)
        assert bool(places[0, 0].isnan().all())


def test_predictions_are_bit_identical_while_they_are_recorded(seen: attnviz.Observation) -> None:
    families.check_predictions(seen)


def test_the_row_of_the_documentation_is_true(name: str, seen: attnviz.Observation) -> None:
    families.check_row("timm", name, seen)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet18", "made no attention call: it is convolutional"),
        ("efficientvit_b0", "made no attention call"),
        ("coat_tiny", "linear attention"),
        ("poolformer_s12", "made no attention call"),
    ],
)
def test_what_is_no_attention_over_the_picture_is_said(
    name: str, told: str, *, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures.noise(64, 64).save(tmp_path / "noise.png")
    command = ["stats", str(tmp_path / "noise.png"), "-m", f"timm:{name}", "--random-weights"]
    assert main(command) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert told in line


def test_attention_over_channels_is_no_layer(tmp_path: Path) -> None:
    pictures.noise(64, 64).save(tmp_path / "noise.png")
    picture = attnviz.load_image(tmp_path / "noise.png")
    model = attnviz.load_model("timm:xcit_nano_12_p16_224", random_weights=True)
    seen = attnviz.observe(picture, model)
    assert seen.count == 14
    assert seen.calls.drawn == (12, 13)  # of its class token, at the end
    assert all("channels" in seen.calls.not_drawn[number] for number in range(12))
    assert not any(layer.queries.on_picture.any() for layer in seen.layers.values())
