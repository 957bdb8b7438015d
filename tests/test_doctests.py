"""The examples of the docstrings run as they stand, and every public name has one."""

import doctest
import importlib
import inspect
import math
import pkgutil
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import attnviz
from attnviz.cli import main

SAMPLES = Path(__file__).parents[1] / "sample_images"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(attnviz.__path__, "attnviz.")
    if not module.name.endswith(("__main__", "triton_kernels"))  # the latter needs Triton
]
CORE = ("attnviz.attention", "attnviz.attribution", "attnviz.recording")
"""Rooms that know tensors: what they call a model is a module, and pixels are its input."""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Classifier(torch.nn.Module):
    """A vision transformer of transformers that gives its logits."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.ViTConfig(
            hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=4,
            num_labels=1000,
        )  # fmt: skip
        torch.manual_seed(0)
        self.whole = transformers.ViTForImageClassification(config).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.whole(pixels).logits
        return logits


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that holds what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("cat.jpg", "photos/cat.jpg", "masks/cat.png"):
            Path(name).parent.mkdir(exist_ok=True)
            source = SAMPLES / (name if name.startswith("masks") else "cat.jpg")
            shutil.copy(source, name)
        films = pytest.importorskip("films")
        films.make_clip(Path("clip.mp4"), 4)
        assert main(["batch", "photos", "-o", "OUT", "--quiet"]) == 0
        yield folder


@pytest.fixture(scope="module")
def core() -> dict[str, Any]:
    model, pixels = Classifier(), torch.rand(1, 3, 224, 224)
    with attnviz.record() as recording:
        model(pixels)
    return {"model": model, "pixels": pixels, "recording": recording, "call": recording[-1]}


@pytest.fixture(scope="module")
def app(desk: Path) -> dict[str, Any]:  # noqa: ARG001 — it is the working folder
    picture, model = attnviz.load_image("cat.jpg"), attnviz.load_model()
    observation = attnviz.observe(picture, model)
    explanation = attnviz.explain(observation)
    return {
        "picture": picture,
        "model": model,
        "observation": observation,
        "explanation": explanation,
        "pixels": torch.rand(1, 3, 224, 224),
    }


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(
    name: str, core: dict[str, Any], app: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "attnviz.monitoring.lightning":
        pytest.importorskip("lightning")
    module = importlib.import_module(name)
    always = {"attnviz": attnviz, "torch": torch, "np": np, "math": math, "replace": replace}
    names = always | (core if name.startswith(CORE) else app) | {"Path": Path}
    for each in doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs=names):
        with torch.enable_grad():
            result = doctest.DocTestRunner(optionflags=FLAGS).run(each)
        assert result.failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", attnviz.__all__)
def test_every_public_name_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(attnviz, name)) or "")
