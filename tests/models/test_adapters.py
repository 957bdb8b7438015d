"""Adapter folders of PEFT are merged into their model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import attnviz
from attnviz.cli import main
from attnviz.errors import ModelError
from attnviz.models.adapters import Adapter, LowRankChange, merge

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48, "image_size": 32, "patch_size": 8, "num_labels": 5}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Any:
    """A classifier of five classes, saved as `base`."""
    torch.manual_seed(0)
    kind = transformers.ViTForImageClassification
    model = kind(transformers.ViTConfig(**SMALL)).eval()
    model.save_pretrained(tmp_path / "base")
    return model


def linear_layers(model: Any) -> dict[str, Any]:
    """The layers of the encoder that an adapter usually changes, by name."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and ("q" in name.rpartition(".")[2] or "fc1" in name)
    }


def saved(folder: Path, base: Any, *, rank: int = 4, classes: int = 5, **config: Any) -> Any:
    """An adapter as PEFT saves it; returns the merged model, by W + α/r·B·A."""
    folder.mkdir()
    told = {"peft_type": "LORA", "lora_alpha": 16, "r": rank, **config}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    state: dict[str, torch.Tensor] = {}
    scale = 16 / (rank**0.5 if config.get("use_rslora") else rank)
    merged = transformers.ViTForImageClassification(base.config).eval()
    merged.load_state_dict(base.state_dict())
    assert linear_layers(merged)
    for name, layer in linear_layers(merged).items():
        a, b = torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank)
        state |= {f"base_model.model.{name}.lora_A.weight": a,
                  f"base_model.model.{name}.lora_B.weight": b}  # fmt: skip
        layer.weight.data += scale * b @ a
    merged.classifier = torch.nn.Linear(32, classes)
    head = merged.classifier.state_dict()
    state |= {f"base_model.model.classifier.{name}": tensor for name, tensor in head.items()}
    save_file({name: each.detach().contiguous() for name, each in state.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return merged


@pytest.mark.parametrize("head", ["none", "class"])
@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"base_model_name_or_path": None}])
def test_merged_weights_give_the_same(
    base: Any, config: dict[str, Any], head: Any, tmp_path: Path
) -> None:
    where = {"base_model_name_or_path": str(tmp_path / "base"), **config}
    merged = saved(tmp_path / "lora", base, classes=3, **where)
    given = None if where["base_model_name_or_path"] else str(tmp_path / "base")
    model = attnviz.load_model(str(tmp_path / "lora"), head=head, base=given)
    assert any("LoRA of" in note for note in model.notes)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = merged(pixels, interpolate_pos_encoding=True)
        output = model.module(pixels)
        if head == "class":
            torch.testing.assert_close(output, expected.logits, atol=1e-5, rtol=0)
            assert output.shape == (1, 3)
        else:
            states = merged.vit(pixels).last_hidden_state
            torch.testing.assert_close(output, states, atol=1e-5, rtol=0)


def test_a_strength_of_0_changes_nothing(base: Any, tmp_path: Path) -> None:
    saved(tmp_path / "lora", base, base_model_name_or_path=str(tmp_path / "base"), lora_alpha=0)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        merged = attnviz.load_model(str(tmp_path / "lora"), head="none").module(pixels)
        plain = attnviz.load_model(str(tmp_path / "base"), head="none").module(pixels)
    assert torch.equal(merged, plain)


@pytest.mark.parametrize("older", [False, True])
def test_a_model_with_words_is_merged(tmp_path: Path, *, older: bool) -> None:
    """`older` names are those of an earlier transformers, in another order."""
    from word_models import llava  # noqa: PLC0415

    llava(tmp_path / "base")
    kind = transformers.LlavaForConditionalGeneration
    merged = kind.from_pretrained(tmp_path / "base").eval()
    config = {"peft_type": "LORA", "lora_alpha": 16, "r": 2, "base_model_name_or_path": "../base"}
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(config))
    state: dict[str, torch.Tensor] = {}
    for name, layer in merged.model.language_model.named_modules():
        if name.endswith(("q_proj", "down_proj")):
            a, b = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2)
            layer.weight.data += 8 * b @ a
            place = "language_model.model" if older else "model.language_model"
            state |= {f"base_model.model.{place}.{name}.lora_{side}.weight": each
                      for side, each in (("A", a), ("B", b))}  # fmt: skip
    merged.lm_head.weight.data += torch.randn_like(merged.lm_head.weight)
    state["base_model.model.lm_head.weight"] = merged.lm_head.weight.data
    save_file(state, tmp_path / "lora" / "adapter_model.safetensors")
    model = attnviz.load_model(str(tmp_path / "lora"), head="words")
    assert "LoRA of 6 layers is merged" in model.notes
    assert model.words is not None
    prompted = model.words.prompted(attnviz.load_image("sample_images/cat.jpg").image(), "What?")
    arguments = model.words.answered(prompted, "a red mat", 9).arguments
    with torch.no_grad():
        mine, truth = (each(**arguments).logits for each in (model.words.module, merged))
    torch.testing.assert_close(mine, truth, atol=1e-5, rtol=1e-5)


def test_tied_weights_are_changed_apart() -> None:
    """As in PEFT: what is trained of one layer does not change another that has its weights."""
    embed, head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5)
    head.weight = embed.weight
    before = embed.weight.detach().clone()
    change = LowRankChange(torch.ones(1, 3), torch.ones(5, 1), 2.0)
    whole = torch.nn.ModuleDict({"embed": embed, "head": head})
    merge("lora", Adapter(None, {"head": change}, {}), whole)
    assert torch.equal(embed.weight, before)
    assert torch.equal(head.weight, before + 2)


def test_the_command_line_shows_it(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "lora", base)
    picture = str(Path(__file__).parents[2] / "sample_images" / "cat.jpg")
    assert main(["stats", picture, "-m", "lora", "--json"]) == 1
    assert "does not name its base; add --base FOLDER" in capfd.readouterr().err
    assert main(["stats", picture, "-m", "lora", "--base", "base", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["check"]["verified"]
    assert "LoRA of" in err
    assert main(["stats", picture, "-m", "base", "--base", "base"]) == 2
    assert "base is no adapter" in capfd.readouterr().err
    assert main(["stats", picture, "-m", "tiny", "--base", "base"]) == 2
    assert "belongs to an adapter of PEFT" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config, _: config | {"peft_type": "IA3"}, "an adapter of IA3, which PEFT alone"),
        (lambda config, _: config | {"use_dora": True}, "an adapter of DoRA, which PEFT alone"),
        (
            lambda config, _: config | {"init_lora_weights": "pissa_niter_16"},
            "an adapter of LoRA that began as pissa_niter_16, which PEFT alone",
        ),
        (lambda config, _: config | {"lora_alpha": None}, "no config of an adapter"),
        (lambda config, _: config | {"base_model_name_or_path": "/no/where"}, "add --base FOLDER"),
        (lambda _, state: state.pop(next(n for n in state if "lora_A" in n)), "one of two"),
        (
            lambda _, state: state.update({"other.lora_A.weight": torch.ones(2, 2),
                                           "other.lora_B.weight": torch.ones(2, 2)}),
            "its other has no place in its base",
        ),
        (lambda _, state: state.update({"x.lora_magnitude_vector": torch.ones(2)}), "no matrix"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_refused(
    base: Any, change: Any, words: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415

    folder = tmp_path / "lora"
    saved(folder, base, base_model_name_or_path=str(tmp_path / "base"))
    config = json.loads((folder / "adapter_config.json").read_text())
    state = load_file(folder / "adapter_model.safetensors")
    changed = change(config, state)
    if isinstance(changed, dict):
        (folder / "adapter_config.json").write_text(json.dumps(changed))
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=words):
        attnviz.load_model(str(folder))


def test_models_of_other_programs_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "cat.jpg", "-m", "model.onnx"]) == 2
    assert "model.onnx runs outside of PyTorch" in capfd.readouterr().err
