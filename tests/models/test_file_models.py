"""`-m FILE`: a plain vision transformer is read off the shapes of a file's tensors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved_files
import torch
from torch import Tensor

import attnviz
from attnviz.errors import MisfitError, ModelError, UsageError

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 96, "image_size": 48, "patch_size": 8}  # fmt: skip


def built(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**{**SMALL, "num_labels": 3, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def output(own: Any, pixels: Tensor) -> Tensor:
    arguments: dict[str, Any] = {"pixel_values": pixels}
    if own.config.model_type in ("vit", "deit", "clip_vision_model"):
        arguments["interpolate_pos_encoding"] = True
    if own.config.model_type == "vit_mae":
        own.config.mask_ratio, own = 0.0, own.vit
        count = (pixels.shape[2] // 8) * (pixels.shape[3] // 8)
        arguments |= {"noise": torch.arange(count).float().expand(len(pixels), -1),
                      "interpolate_pos_encoding": True}  # fmt: skip
    with torch.no_grad():
        found = own(**arguments)
    names = ("logits", "image_embeds", "last_hidden_state")
    result: Tensor = next(found[name] for name in names if getattr(found, name, None) is not None)
    return result


def same(model: attnviz.Model, own: Any, *sizes: tuple[int, int]) -> None:
    for height, width in sizes or ((48, 48),):
        pixels = torch.randn(2, 3, height, width)
        with torch.no_grad():
            assert torch.allclose(model.module(pixels), output(own, pixels), atol=1e-5, rtol=0)


KINDS: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {},
    "ViTModel": {},
    "DeiTForImageClassificationWithTeacher": {},
    "Dinov2ForImageClassification": {},
    "Dinov2Model": {"use_swiglu_ffn": True},
    "Dinov2WithRegistersForImageClassification": {},
    "ViTMAEForPreTraining": {"decoder_num_hidden_layers": 1},
    "CLIPVisionModelWithProjection": {},
}


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_files_of_transformers(name: str, saved: bool, tmp_path: Path) -> None:
    """By the names that modules have, and by those that files have."""
    own = built(name, **KINDS[name])
    path = tmp_path / "model.safetensors"
    if saved:
        own.save_pretrained(tmp_path)
        (tmp_path / "config.json").unlink()
    else:
        path = path.with_suffix(".pt")
        torch.save(own.state_dict(), path)
    model = attnviz.load_model(str(path))
    assert (model.layers, model.heads, model.features, model.patch) == (2, 2, 128, 8)
    assert (model.size, model.loaded, model.weights) == (48, 1.0, "pretrained")
    assert any("2 heads of 64 features are assumed" in note for note in model.notes)
    same(model, own, (48, 48), (32, 56))


@pytest.mark.parametrize("form", saved_files.FORMS)
def test_every_form_alone(form: str, tmp_path: Path) -> None:
    own = built("ViTForImageClassification")
    if form == "float16":  # what the file holds
        own.half().float()
    same(attnviz.load_model(saved_files.save(form, own.state_dict(), tmp_path)), own)


def test_any_number_of_classes_and_any_grid(tmp_path: Path) -> None:
    for settings in ({"num_labels": 7}, {"image_size": 64}):
        own = built("ViTForImageClassification", **settings)
        torch.save(own.state_dict(), tmp_path / "vit.pt")
        model = attnviz.load_model(str(tmp_path / "vit.pt"), head="class")
        assert model.head == "class"
        same(model, own, (48, 48))


def test_what_the_file_and_the_config_beside_it_say(tmp_path: Path) -> None:
    own = built("ViTForImageClassification", num_attention_heads=8,
                id2label={0: "cat", 1: "dog", 2: "cow"})  # fmt: skip
    own.save_pretrained(tmp_path)
    model = attnviz.load_model(str(tmp_path / "model.safetensors"))
    assert (model.heads, model.labels) == (8, ("cat", "dog", "cow"))
    assert not any("assumed" in note for note in model.notes)
    same(model, own)
    hyper = saved_files.AttributeDict(num_heads=8, class_names=["a", "b", "c"])
    torch.save({"state_dict": own.state_dict(), "hyper_parameters": hyper}, tmp_path / "x.ckpt")
    (tmp_path / "config.json").unlink()
    model = attnviz.load_model(str(tmp_path / "x.ckpt"))
    assert (model.heads, model.labels) == (8, ("a", "b", "c"))
    torch.save(own.state_dict(), tmp_path / "x.pt")
    same(attnviz.load_model(str(tmp_path / "x.pt"), settings={"heads": 8}), own)


def test_settings_of_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "vit.pt")
    torch.save(built("ViTForImageClassification").state_dict(), path)
    for settings, words in (
        ({"heads": 3}, "128 features, which 3 heads do not divide"),
        ({"heads": "many"}, "give a number over 0"),
        ({"act": "tanh"}, "choose from gelu, quick_gelu"),
        ({"depth": 3}, "takes heads, act, eps, pool"),
    ):
        with pytest.raises(UsageError, match=words):
            attnviz.load_model(path, settings=settings)
    with pytest.raises(UsageError, match="is a file of weights itself"):
        attnviz.load_model(path, weights=path)
    with pytest.raises(ModelError, match="no text tower"):
        attnviz.load_model(path, head="text")
    pixels = torch.randn(1, 3, 48, 48)
    gelu, relu = (
        attnviz.load_model(path, settings=s).module(pixels) for s in ({}, {"act": "relu"})
    )
    assert not torch.allclose(gelu, relu)


def test_random_weights_come_from_the_seed_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "vit.pt")
    torch.save(built("Dinov2Model").state_dict(), path)
    first, again, other = (
        attnviz.load_model(path, random_weights=True, seed=seed) for seed in (0, 0, 1)
    )
    pixels = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        found = [model.module(pixels) for model in (first, again, other)]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert (first.weights, first.loaded) == ("random", None)
    assert found[0].isfinite().all()


OPENAI = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding": "conv1", "pre_layrnorm": "ln_pre", "post_layernorm": "ln_post",
    "encoder.layers": "transformer.resblocks", "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def openai_names(own: Any) -> dict[str, Tensor]:
    """The weights of a CLIP image encoder as OpenAI's code names them."""
    state, found = own.vision_model.state_dict(), {}
    for name in state:
        renamed = name
        for theirs, openais in OPENAI.items():
            renamed = renamed.replace(theirs, openais)
        if "self_attn.q_proj" in name:
            parts = [state[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            found[renamed.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
        elif "self_attn.k_proj" not in name and "self_attn.v_proj" not in name:
            found[renamed] = state[name]
    return {**found, "proj": own.visual_projection.weight.T.contiguous()}


@pytest.mark.parametrize("openai", [True, False])
def test_clip_by_openais_names(openai: bool, tmp_path: Path) -> None:
    """Those of OpenAI have QuickGELU and say their resolution; open_clip's have GELU."""
    own = built("CLIPVisionModelWithProjection", hidden_act="quick_gelu" if openai else "gelu")
    names = ("text_projection", "transformer.resblocks.0.ln_1.weight", "token_embedding.weight")
    text = {name: torch.ones(2, 2) for name in names}
    stated = {"input_resolution": torch.tensor(48)} if openai else {}
    state = {**saved_files.prefixed(openai_names(own), "visual."), **text, **stated}
    torch.save(state, tmp_path / "clip.pt")
    model = attnviz.load_model(str(tmp_path / "clip.pt"))
    same(model, own, (48, 48))
    assert model.head == "none"
    assert model.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert any(
        f"activation {'quick_gelu' if openai else 'gelu'} is assumed" in n for n in model.notes
    )


def google_names(own: Any) -> dict[str, Any]:
    """The weights of a ViT as Flax has them: inputs first, heads on an axis of their own."""
    state = {name.removeprefix("vit."): t.numpy() for name, t in own.state_dict().items()}
    patch = "embeddings.patch_embeddings.projection"
    found = {
        "cls": state["embeddings.cls_token"],
        "Transformer/posembed_input/pos_embedding": state["embeddings.position_embeddings"],
        "embedding/kernel": state[f"{patch}.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state[f"{patch}.bias"],
        "Transformer/encoder_norm/scale": state["layernorm.weight"],
        "Transformer/encoder_norm/bias": state["layernorm.bias"],
        "head/kernel": state["classifier.weight"].T,
        "head/bias": state["classifier.bias"],
    }
    for number in range(2):
        block, given = f"Transformer/encoderblock_{number}", f"layers.{number}"
        for theirs, name in (
            ("LayerNorm_0", "layernorm_before"),
            ("LayerNorm_2", "layernorm_after"),
        ):
            found[f"{block}/{theirs}/scale"] = state[f"{given}.{name}.weight"]
            found[f"{block}/{theirs}/bias"] = state[f"{given}.{name}.bias"]
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for name in ("query", "key", "value"):
            weight = state[f"{given}.attention.{name[0]}_proj.weight"]
            found[f"{attention}/{name}/kernel"] = weight.T.reshape(128, 2, 64)
            bias = state[f"{given}.attention.{name[0]}_proj.bias"]
            found[f"{attention}/{name}/bias"] = bias.reshape(2, 64)
        found[f"{attention}/out/kernel"] = state[f"{given}.attention.o_proj.weight"].T.reshape(
            2, 64, 128
        )
        found[f"{attention}/out/bias"] = state[f"{given}.attention.o_proj.bias"]
        for theirs, name in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            found[f"{block}/MlpBlock_3/{theirs}/kernel"] = state[f"{given}.mlp.{name}.weight"].T
            found[f"{block}/MlpBlock_3/{theirs}/bias"] = state[f"{given}.mlp.{name}.bias"]
    return found


def test_arrays_of_google(tmp_path: Path) -> None:
    own = built("ViTForImageClassification", layer_norm_eps=1e-6)
    np.savez(tmp_path / "ViT.npz", **google_names(own))
    model = attnviz.load_model(str(tmp_path / "ViT.npz"))
    same(model, own)
    assert model.mean == (0.5, 0.5, 0.5)


def refused(state: dict[str, Tensor], tmp_path: Path, words: str) -> None:
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=words) as caught:
        attnviz.load_model(str(tmp_path / "odd.pt"))
    assert len(str(caught.value).splitlines()) == (
        3 if isinstance(caught.value, MisfitError) else 1
    )


def test_what_is_no_plain_vision_transformer_is_refused_by_name(tmp_path: Path) -> None:
    swin = transformers.SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[1, 2], image_size=32)
    refused(
        transformers.SwinModel(swin).state_dict(),
        tmp_path,
        "Swin, not a plain vision .*-m timm:swin_tiny\\w+ --weights .* or -m FOLDER",
    )
    refused(built("BeitModel", use_relative_position_bias=True).state_dict(), tmp_path,
            "BEiT.*-m timm:beit_base_patch16_224 --weights")  # fmt: skip
    refused(torch.nn.Linear(2, 2).state_dict(), tmp_path, r"its names \(weight, bias\) are of no")
    state = built("ViTModel").state_dict()
    refused({**state, "layers.0.attention.q_norm.weight": torch.ones(64)}, tmp_path,
            "q_norm.weight has no place")  # fmt: skip
    lacking = {name: t for name, t in state.items() if name != "layers.1.mlp.fc2.bias"}
    model = attnviz.load_model(_saved(lacking, tmp_path))  # a layer without bias is one
    assert "blocks.1.mlp.fc2.bias" not in model.module.state_dict()
    lacking = {name: t for name, t in state.items() if "position_embeddings" not in name}
    refused(lacking, tmp_path, "no table of positions")
    refused(
        {n: t for n, t in state.items() if "layers.1.mlp.fc2" not in n}, tmp_path, "fit together"
    )
    refused({n: t for n, t in state.items() if "k_proj" not in n}, tmp_path, "has no place")
    refused({**state, "layernorm.weight": torch.full((128,), torch.nan)}, tmp_path, "NaN")
    refused({**state, "layernorm.bias": torch.ones(7)}, tmp_path, "layernorm.bias is 7 where 128")
    refused(
        {n: t.to(torch.int8) for n, t in state.items()}, tmp_path, "is int8, where dense floats"
    )
    two = {**saved_files.prefixed(state, "student."), **saved_files.prefixed(state, "teacher.")}
    refused(two, tmp_path, "holds several models .*--key student")
    same(attnviz.load_model(str(tmp_path / "odd.pt"), key="teacher"), built("ViTModel"))


def _saved(state: dict[str, Tensor], folder: Path) -> str:
    torch.save(state, folder / "saved.pt")
    return str(folder / "saved.pt")


def test_a_width_that_tells_no_heads_asks_for_them(tmp_path: Path) -> None:
    own = built("ViTModel", hidden_size=120, num_attention_heads=3)
    path = _saved(own.state_dict(), tmp_path)
    with pytest.raises(ModelError, match=r"120 features have; give --set heads=N"):
        attnviz.load_model(path)
    same(attnviz.load_model(path, settings={"heads": 3}), own)


def test_from_the_command_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from attnviz.cli import main  # noqa: PLC0415

    monkeypatch.chdir(tmp_path)
    state = built("ViTForImageClassification").state_dict()
    torch.save({"teacher": state, "student": state}, "best.ckpt")
    from PIL import Image  # noqa: PLC0415

    Image.new("RGB", (64, 48), "red").save("red.png")
    line = ["stats", "red.png", "-m", "best.ckpt", "--key", "student", "--set", "heads=4", "--json"]
    assert main([*line, "--layers", "all"]) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["model"]["heads"], record["model"]["layers"]) == (4, 2)
    assert record["check"]["verified"]
    assert len(record["heads"]) == 8
    assert main(["stats", "red.png", "-m", "tiny", "--key", "student"]) == 2
    assert "--key student chooses from a file" in capfd.readouterr().err
    assert main(["stats", "red.png", "-m", "gone.ckpt"]) == 1
    assert "gone.ckpt: no such file" in capfd.readouterr().err
    assert main(["compare", "red.png", "-m", "best.ckpt", "--random-weights", "-o", "out"]) == 0
