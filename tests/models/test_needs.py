"""What of a checkpoint may be missing: nothing that a map, or a token, changes with."""

from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from torch import Tensor

import attnviz
from attnviz.errors import ModelError
from attnviz.models import pretrained
from attnviz.models.needs import Reach, reach
from attnviz.models.state_dict_names import digitless, fitting, foreign, prefixes, unreadable

transformers: Any = pytest.importorskip("transformers")
SMALL = checkpoints.SMALL
WIDTHS = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
          "image_size": 64}  # fmt: skip
# A class of transformers: its config, and kinds of tensors that no map needs.
FAMILIES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "ViTModel": (SMALL, {"pooler.dense.weight", "pooler.dense.bias"}),
    "DeiTModel": (SMALL, {"pooler.dense.weight", "pooler.dense.bias"}),
    "Dinov2Model": (SMALL, {"embeddings.mask_token"}),
    "BeitModel": (
        {**SMALL, "use_relative_position_bias": True},
        {"pooler.layernorm.weight", "pooler.layernorm.bias"},
    ),
    "ViTMAEForPreTraining": (
        {**SMALL, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
         "decoder_num_attention_heads": 4, "decoder_intermediate_size": 32},
        {"mask_token", "decoder"},
    ),
    "CLIPVisionModel": (SMALL, {"post_layernorm.weight", "post_layernorm.bias"}),
    "SiglipVisionModel": (  # its head is a layer, which asks with a token of its own
        SMALL,
        {"head.attention.out_proj.bias", "head.layernorm", "head.mlp"},
    ),
    "SwinModel": (
        {"image_size": 64, "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4],
         "window_size": 2},
        set(),
    ),
    "LevitModel": (WIDTHS, set()),
    "HieraModel": (
        {"embed_dim": 24, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "image_size": [64, 64],
         "num_query_pool": 2},
        {"pooler.layernorm.weight", "pooler.layernorm.bias"},
    ),
}  # fmt: skip


def seen(model: attnviz.Model, pixels: Tensor) -> list[Tensor]:
    """Queries, keys, values and projection of every call, and the tokens that the model gives."""
    with torch.no_grad(), attnviz.record() as recording:
        output = model.module(pixels)
    calls = [part for call in recording for part in (call.query, call.key, call.value)]
    calls += [call.projection for call in recording if call.projection is not None]
    return [*calls, getattr(output, "last_hidden_state", output)]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_may_be_missing_changes_no_map(name: str, tmp_path: Path) -> None:
    settings, spare = FAMILIES[name]
    checkpoints.build(transformers, name, tmp_path / "whole", **settings)
    model = attnviz.load_model(str(tmp_path / "whole"))
    assert model.loaded == 1.0
    pixels = torch.randn(1, 3, model.size, model.size)
    expected = seen(model, pixels)
    state = checkpoints.Files({}, {})
    checkpoints.copied(tmp_path / "whole", tmp_path / "copy", lambda f: state.state.update(f.state))
    kinds: dict[str, str] = {}
    for tensor, value in state.state.items():
        if value.is_floating_point():
            kinds.setdefault(digitless(tensor), tensor)
    least = [t for t in kinds.values() if any(part in t for part in spare)]
    others = [t for t in kinds.values() if t not in least]
    left_out = set()
    for number, tensor in enumerate(least + others[:: 1 + len(others) // 12]):

        def drop(files: checkpoints.Files, tensor: str = tensor) -> None:
            del files.state[tensor]

        folder = checkpoints.copied(tmp_path / "whole", tmp_path / str(number), drop)
        try:
            lacking = attnviz.load_model(str(folder))
        except ModelError as error:
            assert "missing" in str(error)  # noqa: PT017 — either may be
            continue
        left_out.add(tensor)
        for found, value in zip(seen(lacking, pixels), expected, strict=True):
            torch.testing.assert_close(found, value, atol=1e-6, rtol=1e-5, msg=tensor)
    assert {name for name in left_out if not any(part in name for part in spare)} == set()
    assert all(any(part in name for name in left_out) for part in spare - {"decoder"})


def test_reach_is_measured_and_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    checkpoints.build(transformers, "ViTModel", tmp_path / "vit", **SMALL)
    model = attnviz.load_model(str(tmp_path / "vit"))
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    own = dict(model.module.named_parameters())
    named = {part: [t for n, t in own.items() if part in n] for part in ("pooler", "cls_token")}
    assert reach(model, []) == Reach.NOTHING
    assert reach(model, named["pooler"]) == Reach.NOTHING
    assert reach(model, named["cls_token"]) == Reach.MAPS
    assert reach(model, [own["model.layernorm.bias"]]) == Reach.MAPS  # behind the last call
    assert all(torch.equal(t, before[n]) for n, t in model.module.state_dict().items())


def test_a_class_head_is_none_of_a_map(tmp_path: Path) -> None:
    checkpoints.build(transformers, "ViTForImageClassification", tmp_path / "vit", **SMALL)
    model = attnviz.load_model(str(tmp_path / "vit"), head="class")
    own = dict(model.module.named_parameters())
    assert reach(model, [own["model.classifier.weight"]]) == Reach.HEAD
    first = next(t for n, t in own.items() if "attention" in n)
    assert reach(model, [first]) == Reach.MAPS


def test_prefixes_are_told_from_names() -> None:
    assert prefixes(["a.b.c.d", "a.b.e"], 2) == ["a.", "a.b."]
    assert prefixes(["a", "b.c"], 2) == []
    assert fitting(["module.w", "module.b"], ["w", "b"]) == {"w": "module.w", "b": "module.b"}
    assert fitting(["w", "b"], ["w", "b"]) == {}
    assert fitting(["module.w", "b"], ["w", "b"]) == {"w": "module.w", "b": "b"}
    assert fitting(["module.w", "module.c"], ["w", "b"]) == {}
    assert fitting(["x.module.w", "x.module.b"], ["w", "b"]) == {
        "w": "x.module.w", "b": "x.module.b",
    }  # fmt: skip


def test_names_of_others_are_told() -> None:
    assert foreign(["encoder.layer.0.attention.attention.query.weight"], "f") is None
    for name, whose in (
        ("backbone.blocks.11.attn.qkv.weight", "timm"),
        ("encoder.layers.encoder_layer_0.self_attention.in_proj_weight", "torchvision"),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", "open_clip"),
    ):
        found = foreign([name], "f")
        assert found is not None
        assert whose in found[0]
    assert unreadable(["encoder.layer.0.weight", "head.flora_score"]) is None
    assert unreadable(["a.lora_A.default.weight"]) is not None
    assert unreadable(["a.qweight"]) is not None


def test_memory_that_nobody_filled_is_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers leaves some missing tensors as memory was, which may hold an earlier pass."""
    settings, _ = FAMILIES["ViTMAEForPreTraining"]
    checkpoints.build(transformers, "ViTMAEForPreTraining", tmp_path / "whole", **settings)
    missing = "vit.embeddings.cls_token"

    def drop(files: checkpoints.Files) -> None:
        del files.state[missing]

    def filled(*given: Any) -> Any:
        module, info = real(*given)
        name = missing.removeprefix("vit.")
        assert name in info["missing_keys"]
        with torch.no_grad():
            module.get_parameter(name).fill_(pretrained.MARK)
        return module, info

    folder = checkpoints.copied(tmp_path / "whole", tmp_path / "copy", drop)
    real = pretrained._filled
    monkeypatch.setattr(pretrained, "_filled", filled)
    with pytest.raises(ModelError, match=r"cls_token is missing"):
        attnviz.load_model(str(folder))
