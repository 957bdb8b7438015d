"""Models of timm: loading, preprocessing, patches, prefix tokens, weights, errors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pictures
import pytest
import torch
import torchvision_schemas
from safetensors.torch import load_file, save_file

import attnviz
from attnviz.cli import main
from attnviz.models.aliases import ALIASES

timm: Any = torchvision_schemas.import_or_skip("timm")
# Name: multiple, own size, prefix tokens, class token, known to take one shape only.
MODELS: dict[str, tuple[int, int, int, bool, bool]] = {
    "vit_tiny_patch16_224": (16, 224, 1, True, False),
    "deit_tiny_distilled_patch16_224": (16, 224, 2, True, False),
    "eva02_tiny_patch14_224": (14, 224, 1, True, False),
    "vit_small_patch16_dinov3": (16, 256, 5, True, False),
    "vit_small_patch14_reg4_dinov2": (14, 518, 5, True, False),
    "swin_tiny_patch4_window7_224": (32, 224, 0, False, False),
    "swinv2_tiny_window8_256": (32, 256, 0, False, False),
    "pvt_v2_b0": (32, 224, 0, False, False),
    "cait_xxs24_224": (16, 224, 1, True, True),
    "pit_ti_224": (32, 224, 1, True, True),
    "mvitv2_tiny": (32, 224, 0, False, True),
    "beit_base_patch16_224": (16, 224, 1, True, True),
    "resnet18": (32, 224, 0, False, False),
}
TINY = "timm:vit_tiny_patch16_224"


@pytest.mark.parametrize("name", MODELS)
def test_facts_are_the_models_and_it_runs(name: str) -> None:
    patch, size, prefix, class_token, fixed = MODELS[name]
    model = attnviz.load_model(f"timm:{name}", random_weights=True)
    assert (model.patch, model.size, model.prefix) == (patch, size, prefix)
    assert (model.class_token, model.fixed) == (class_token, fixed)
    config = timm.data.resolve_model_data_config(model.module)
    assert (model.mean, model.std) == (config["mean"], config["std"])
    assert model.resample == {"bicubic": 3, "bilinear": 2}[config["interpolation"]]
    shape = (size, size) if fixed else (4 * patch, 6 * patch)
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, *shape)).isfinite().all()


def test_layers_heads_and_features_where_they_are_single_numbers() -> None:
    model = attnviz.load_model(TINY, random_weights=True)
    assert (model.layers, model.heads, model.features) == (12, 3, 192)
    model = attnviz.load_model("timm:swin_tiny_patch4_window7_224", random_weights=True)
    assert (model.layers, model.heads, model.features) == (None, None, None)


def test_a_plain_model_sees_the_tokens_that_were_promised(tmp_path: Path) -> None:
    pictures.noise(200, 120).save(tmp_path / "noise.png")
    model = attnviz.load_model(TINY, random_weights=True, size=96)
    seen = attnviz.observe(attnviz.load_image(tmp_path / "noise.png"), model)
    assert {call.shape[2] for call in seen.recording} == {seen.placement.grid.tokens}
    assert seen.placement.grid.columns > seen.placement.grid.rows


def test_random_weights_come_from_the_seed_and_nothing_else_moves() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (
        attnviz.load_model(TINY, random_weights=True, seed=seed).module.state_dict()["cls_token"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.rand(1) == expected


def test_the_fused_path_stays_as_the_user_has_it() -> None:
    config = timm.layers.config
    before = config._USE_FUSED_ATTN
    attnviz.load_model(TINY, random_weights=True)
    assert before == config._USE_FUSED_ATTN


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_weights_come_from_a_file(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    own = timm.create_model(name)
    path = tmp_path / f"own.{suffix}"
    if suffix == "pt":
        torch.save(own.state_dict(), path)
    else:
        save_file(own.state_dict(), path)
    model = attnviz.load_model(f"timm:{name}", weights=str(path))
    assert model.weights == str(path)
    assert model.seed is None
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(model.module(pixels), own.eval()(pixels))


def test_weights_that_do_not_fit_are_told_in_a_line(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "odd.pt")
    with pytest.raises(attnviz.AttnvizError, match=r"(?s)odd\.pt does not fit.* and \d+ more"):
        attnviz.load_model(TINY, weights=str(tmp_path / "odd.pt"))


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("timm:vit_tyny_patch16_224", "did you mean vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224.magic", "timm has no|has no such model"),
        ("timm:", "names nothing"),
        ("timm:vit_tiny_patch16_224.augreg_in21k", "HF_HUB_OFFLINE forbids"),
        ("timm:hf_hub:timm/nothing", "HF_HUB_OFFLINE forbids|not in the local cache"),
    ],
)
def test_errors_say_what_to_type(
    spec: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants  # noqa: PLC0415 — comes with timm

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(attnviz.AttnvizError, match=told) as caught:
        attnviz.load_model(spec)
    assert "\n" not in str(caught.value)


def test_a_model_that_nobody_trained_asks_for_weights() -> None:
    names = timm.list_models("vit_*")
    untrained = next(name for name in names if not timm.is_model_pretrained(name))
    with pytest.raises(attnviz.AttnvizError, match="no weights for it; give --weights FILE or"):
        attnviz.load_model(f"timm:{untrained}")


@pytest.mark.parametrize("option", [{"patch": 8}, {"features": 64}, {"tokens": "pixels"}])
def test_options_of_random_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(attnviz.AttnvizError, match="is for the model random"):
        attnviz.load_model(TINY, random_weights=True, **option)


def test_a_size_that_it_cannot_take_is_refused() -> None:
    with pytest.raises(attnviz.AttnvizError, match="takes 224x224 pixels only"):
        attnviz.load_model("timm:cait_xxs24_224", random_weights=True, size=96)


def test_heads_are_chosen_not_built() -> None:
    model = attnviz.load_model(TINY, random_weights=True, heads=2)
    assert model.heads == 3


def test_the_command_line_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures.noise(120, 80).save(tmp_path / "a.png")
    command = ["show", str(tmp_path / "a.png"), "-m", TINY, "--random-weights", "--size", "64"]
    assert main([*command, "--quiet", "-o", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("layer11-head*.png"))) == 3
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", [n for n, a in ALIASES.items() if a.spec.startswith("timm:")])
def test_short_names_are_what_the_table_says(name: str) -> None:
    alias = ALIASES[name]
    with torch.device("meta"):
        model = timm.create_model(alias.spec.removeprefix("timm:"))
    assert alias.spec.removeprefix("timm:") in timm.list_pretrained()
    assert (len(model.blocks),) == alias.layers
    assert (model.blocks[0].attn.num_heads,) == alias.heads
    assert model.patch_embed.patch_size == (alias.patch, alias.patch)
    assert model.num_prefix_tokens == 1 + alias.registers
    assert model.pretrained_cfg["input_size"] == (3, alias.size, alias.size)
    assert model.pretrained_cfg["hf_hub_id"] == alias.repository
    assert model.pretrained_cfg["license"] == alias.licence.lower()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(alias.parameters, rel=0.02)


@pytest.mark.parametrize(
    ("name", "classes", "label"),
    [
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 1000, (281, "tabby, tabby cat")),
        ("vit_base_patch16_clip_224.openai_ft_in1k", 1000, (0, "tench, Tinca tinca")),
        ("vit_tiny_patch16_224.augreg_in21k", 21843, None),
        ("vit_small_patch14_dinov2.lvd142m", 0, None),
        ("vit_base_patch16_clip_224.openai", 0, None),  # 512 wide, which are no classes
    ],
)
def test_classes_are_named_where_there_are_any(
    name: str, classes: int, label: tuple[int, str] | None
) -> None:
    model = attnviz.load_model(f"timm:{name}", random_weights=True, head="any")
    assert model.head == ("class" if classes else "none")
    assert len(model.labels or ()) == classes
    if label is not None:
        assert model.labels is not None
        assert model.labels[label[0]] == label[1]
    if not classes:
        with pytest.raises(attnviz.AttnvizError, match="timm says that it has no classes"):
            attnviz.load_model(f"timm:{name}", random_weights=True, head="class")


SMALL = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4,
         "num_classes": 5}  # fmt: skip


def saved(
    folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = dict, **settings: Any
) -> str:
    """A checkpoint folder of timm, with a change in its tensors and in what its config builds."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SMALL)
    state = {name: t + 0.1 * torch.randn_like(t) for name, t in model.state_dict().items()}
    folder.mkdir()
    save_file(change(state), folder / "model.safetensors")
    data = {"num_classes": 5, "input_size": [3, 48, 48], "classifier": "head", "mean": [0.5] * 3,
            "std": [0.5] * 3, "interpolation": "bicubic", "first_conv": "patch_embed.proj",
            "fixed_input_size": False}  # fmt: skip
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {**SMALL, **settings},
              "pretrained_cfg": data}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{folder}"


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("1.attn.qkv.w", "1.attn.qkx.w"): t for name, t in state.items()}


def to_int8(state: dict[str, Any]) -> dict[str, Any]:
    name = "blocks.1.attn.qkv.weight"
    return {**state, name: (50 * state[name]).to(torch.int8)}


def of_nan(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "blocks.1.attn.qkv.bias": torch.full((96,), torch.nan)}


def one_more(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "blocks.1.attn.gate": torch.ones(3)}


def test_a_checkpoint_of_its_own_is_read_whole(tmp_path: Path) -> None:
    model = attnviz.load_model(saved(tmp_path / "good"))
    assert (model.weights, model.loaded, model.notes, model.head) == (
        "pretrained",
        1.0,
        (),
        "class",
    )
    state = load_file(tmp_path / "good/model.safetensors")
    assert all(torch.equal(t, state[n]) for n, t in model.module.state_dict().items())
    assert attnviz.load_model(TINY, random_weights=True).loaded is None


@pytest.mark.parametrize(
    ("change", "settings", "told"),
    [
        (renamed, {}, r"blocks\.1\.attn\.qkv\.weight is missing, and there is .*qkx"),
        (to_int8, {}, "qkv.weight is int8 where dense floats are needed"),
        (of_nan, {}, "qkv.bias holds NaN or infinity"),
        (one_more, {}, "blocks.1.attn.gate, for which .* has no place"),
        (dict, {"depth": 4}, "a model of 4 layers, and its weights end with layer 2"),
        (dict, {"depth": 2}, r"blocks\.2\.\S+, .* has no place"),
        (dict, {"embed_dim": 48}, "cls_token is 1x1x32 where 1x1x48 is needed"),
    ],
)
@pytest.mark.parametrize("classes", [5, 7], ids=["strictly", "loosely"])
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    settings: dict[str, Any],
    told: str,
    classes: int,
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """timm looks at nothing where the number of classes differs."""
    spec = saved(tmp_path / "odd", change, num_classes=classes, **settings)
    pictures.noise(60, 40).save(tmp_path / "a.png")
    assert main(["show", str(tmp_path / "a.png"), "-m", spec, "-o", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert re.search(told, err)
    assert (out, err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()


def test_another_number_of_classes_leaves_no_head_and_the_same_maps(tmp_path: Path) -> None:
    good = attnviz.load_model(saved(tmp_path / "good"))
    spec = saved(tmp_path / "other", num_classes=7)
    with pytest.raises(attnviz.AttnvizError, match=r"no class head .*head\.weight, head\.bias"):
        attnviz.load_model(spec, head="class")
    other = attnviz.load_model(spec, head="any")
    assert (other.head, other.labels, other.loaded) == ("none", None, 1.0)
    assert other.notes[0].startswith("no class head (its checkpoint has no usable head.weight")
    pixels = torch.randn(1, 3, 48, 48)
    calls = []
    for model in (good, other):
        with torch.no_grad(), attnviz.record() as recording:
            model.module(pixels)
        calls.append(torch.stack([call.matrix() for call in recording]))
    torch.testing.assert_close(*calls)


def test_it_has_no_texts() -> None:
    with pytest.raises(attnviz.AttnvizError, match=r"no text tower \(timm has the image encoder"):
        attnviz.load_model("timm:vit_base_patch16_clip_224.openai", head="text")
