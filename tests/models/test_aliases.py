"""Short names: the table against what is built from it; the cache; the command."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from families import state

import attnviz
from attnviz.cli import main
from attnviz.models import SOURCES, cache, configs, find_source
from attnviz.models.aliases import ALIASES

transformers: Any = pytest.importorskip("transformers")
HF = [name for name, alias in ALIASES.items() if alias.config]


@pytest.mark.parametrize("name", HF)
def test_the_table_says_what_is_built_from_it(name: str) -> None:
    alias = ALIASES[name]
    config = getattr(transformers, alias.config)(**alias.arguments)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    names = {name for name, _ in model.named_modules()}
    # …layers.0, …layer.11, …layers.2.blocks.1
    plain, stages = r"(.*\.)?layers?\.\d+", r".*\.layers\.\d+\.blocks\.\d+"
    pattern = plain if len(alias.layers) == 1 else stages
    assert sum(re.fullmatch(pattern, name) is not None for name in names) == sum(alias.layers)
    heads = getattr(config, "num_heads", None) or [config.num_attention_heads]
    assert tuple(heads) == alias.heads
    convolution = next(part for part in model.modules() if isinstance(part, torch.nn.Conv2d))
    assert convolution.kernel_size == (alias.patch, alias.patch)
    found = dict(model.named_parameters()).get("embeddings.register_tokens")
    assert (0 if found is None else found.shape[1]) == alias.registers
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(alias.parameters, rel=0.02)


def test_every_family_is_there() -> None:
    families = {alias.family for alias in ALIASES.values()}
    assert families == {
        "ViT", "DeiT", "DINO", "DINOv2", "DINOv3", "MAE", "BEiT", "CLIP", "SigLIP", "SigLIP 2",
        "Swin", "Swin v2", "EVA-02", "SAM",
    }  # fmt: skip
    assert not ALIASES.keys() & SOURCES.keys()
    assert len({alias.spec for alias in ALIASES.values()}) == len(ALIASES)
    assert {find_source(name) for name in ALIASES} == {"hf", "timm"}


@pytest.mark.parametrize("name", ["deit-tiny", "swin-tiny", "dinov2-registers-small"])
def test_random_weights_ask_nothing_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", refuse)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    model = attnviz.load_model(name, random_weights=True, size=64)
    alias = ALIASES[name]
    assert model.spec == name
    assert model.weights == "random"
    assert model.patch == configs.multiple(model.module.model.config)  # type: ignore[union-attr]
    assert model.mean == (0.485, 0.456, 0.406)
    assert model.resample == alias.resample
    with torch.no_grad():
        assert state(model.module(torch.zeros(1, 3, 224, 224))).isfinite().all()


def test_a_short_name_is_the_checkpoint_that_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "checkpoint")
    alias = dataclasses.replace(ALIASES["deit-tiny"], spec=str(tmp_path / "checkpoint"))
    monkeypatch.setitem(ALIASES, "deit-tiny", alias)
    model = attnviz.load_model("deit-tiny")
    assert (model.spec, model.weights, model.features) == ("deit-tiny", "pretrained", 24)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "{}/a"}, "{}/a"),
        ({"HF_HOME": "{}/b"}, "{}/b/hub"),
        ({"XDG_CACHE_HOME": "{}/c"}, "{}/c/huggingface/hub"),
        ({"HF_HOME": "{}/b", "HF_HUB_CACHE": "{}/a"}, "{}/a"),
    ],
)
def test_the_cache_is_where_the_hub_keeps_it(
    variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert cache.folder() == Path(expected.format(tmp_path))


def test_a_model_is_cached_when_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    here = tmp_path / "models--facebook--dinov2-small" / "snapshots" / "abc"
    here.mkdir(parents=True)
    (here / "config.json").write_text("{}")
    assert not ALIASES["dinov2-small"].cached
    (here / "model.safetensors").symlink_to(tmp_path / "gone")
    assert not ALIASES["dinov2-small"].cached
    (tmp_path / "gone").write_text("")
    assert ALIASES["dinov2-small"].cached
    eva = tmp_path / "models--timm--eva02_tiny_patch14_224.mim_in22k" / "snapshots" / "def"
    eva.mkdir(parents=True)
    (eva / "model.safetensors").write_text("")
    assert main(["models", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [*SOURCES, *ALIASES]
    assert {line["name"] for line in lines if line.get("cached")} == {"dinov2-small", "eva02-tiny"}
    small = next(line for line in lines if line["name"] == "dinov2-registers-small")
    assert small["family"] == "DINOv2"
    assert (small["layers"], small["heads"]) == (12, 6)
    assert (small["patch"], small["registers"]) == (14, 4)
    assert (small["licence"], small["megabytes"]) == ("Apache-2.0", 88)


def test_the_table_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny ")
    swin = next(line for line in lines if line.startswith("swin-tiny"))
    assert "2-2-6-2 x 3-6-12-24" in swin
    assert max(map(len, lines)) <= 100
