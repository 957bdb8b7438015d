"""Models of torchvision: loading, preprocessing, patches, prefix tokens, weights, errors."""

import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision_schemas

import attnviz

models: Any = torchvision_schemas.import_or_skip("torchvision.models")
# Name: multiple, own size, prefix tokens, known to take one shape only, Pillow's filter.
MODELS: dict[str, tuple[int, int, int, bool, int]] = {
    "vit_b_16": (16, 224, 1, True, 2),
    "vit_b_32": (32, 224, 1, True, 2),
    "swin_t": (32, 224, 0, False, 3),
    "swin_v2_t": (32, 256, 0, False, 3),
    "maxvit_t": (32, 224, 0, True, 3),
    "resnet18": (32, 224, 0, False, 2),
}


@pytest.mark.parametrize("name", MODELS)
def test_facts_are_the_models_and_it_runs(name: str) -> None:
    patch, size, prefix, fixed, resample = MODELS[name]
    model = attnviz.load_model(f"torchvision:{name}", random_weights=True)
    assert (model.patch, model.size, model.prefix, model.fixed) == (patch, size, prefix, fixed)
    assert model.class_token == (prefix == 1)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    assert model.mean == pytest.approx(transforms.mean)
    assert model.std == pytest.approx(transforms.std)
    assert model.resample == resample
    shape = (size, size) if fixed else (3 * patch, 5 * patch)
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, *shape)).isfinite().all()


def test_layers_heads_and_features_of_a_plain_vit() -> None:
    model = attnviz.load_model("torchvision:vit_b_16", random_weights=True)
    assert (model.layers, model.heads, model.features) == (12, 12, 768)
    model = attnviz.load_model("torchvision:swin_t", random_weights=True)
    assert (model.layers, model.heads, model.features) == (None, None, None)


def test_random_weights_come_from_the_seed() -> None:
    first, second, other = (
        attnviz.load_model(
            "torchvision:resnet18", random_weights=True, seed=seed
        ).module.state_dict()["conv1.weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["swin_t", "resnet18"])
def test_weights_come_from_a_file(name: str, tmp_path: Path) -> None:
    own = models.get_model(name)
    torch.save(own.state_dict(), tmp_path / "own.pt")
    parallel = {f"module.{key}": tensor for key, tensor in own.state_dict().items()}
    torch.save(parallel, tmp_path / "parallel.pt")
    model = attnviz.load_model(f"torchvision:{name}", weights=str(tmp_path / "parallel.pt"))
    assert (model.loaded, len(model.notes)) == (1.0, 1)
    assert "parallel.pt are read without a prefix: module." in model.notes[0]
    torch.save(parallel | own.state_dict(), tmp_path / "both.pt")
    with pytest.raises(attnviz.AttnvizError, match=r"(?s)both\.pt does not fit.*has no place"):
        attnviz.load_model(f"torchvision:{name}", weights=str(tmp_path / "both.pt"))
    model = attnviz.load_model(f"torchvision:{name}", weights=str(tmp_path / "own.pt"))
    assert (model.loaded, model.notes) == (1.0, ())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(model.module(pixels), own.eval()(pixels))


def test_unknown_names_are_answered_with_those_that_look_like_it() -> None:
    for name, close in (("vit_b_61", "vit_b_16"), ("fasterrcnn_resnet50_fpn", "resnet50")):
        with pytest.raises(attnviz.AttnvizError, match=f"did you mean .*{close}|such as vit"):
            attnviz.load_model(f"torchvision:{name}")


def test_without_network_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(attnviz.AttnvizError, match="the network cannot be reached"):
        attnviz.load_model("torchvision:swin_t")


@pytest.mark.parametrize("option", [{"patch": 8}, {"features": 64}, {"tokens": "pixels"}])
def test_options_of_random_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(attnviz.AttnvizError, match="is for the model random"):
        attnviz.load_model("torchvision:swin_t", random_weights=True, **option)


def test_a_size_that_it_cannot_take_is_refused() -> None:
    with pytest.raises(attnviz.AttnvizError, match="takes 224x224 pixels only"):
        attnviz.load_model("torchvision:vit_b_16", random_weights=True, size=96)


def test_classes_are_named_and_there_are_no_texts() -> None:
    model = attnviz.load_model("torchvision:swin_t", random_weights=True, head="any")
    assert model.head == "class"
    assert model.labels is not None
    assert (len(model.labels), model.labels[281]) == (1000, "tabby")
    with pytest.raises(attnviz.AttnvizError, match="no text tower"):
        attnviz.load_model("torchvision:swin_t", head="text")
