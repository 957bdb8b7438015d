"""All models of the panel, found by their marks; and the truth of each."""

import importlib
from types import ModuleType
from typing import Any

import pytest
from torch import nn

from panel.judge import Truth, pixels
from panel.notes import take_notes
from panel.truth import Case

FILES = (
    "plain", "frameworks", "spellings", "pieces", "moved", "warped", "hybrids", "outputs",
    "packaged", "packaged_more",
)  # fmt: skip


def find_models() -> list[Any]:
    """Every marked class or function of every file, as parameters (module, name)."""
    found = []
    for file in FILES:
        module = importlib.import_module(f"panel.{file}")
        for name, value in vars(module).items():
            if (
                isinstance(getattr(value, "case", None), Case)
                and value.__module__ == module.__name__
            ):
                found.append(pytest.param(module, name, id=f"{file}-{name}"))
    return found


def made(module: ModuleType, name: str) -> tuple[nn.Module, Case]:
    """A model and what is expected of it; skips a test where a library of it is missing."""
    factory = getattr(module, name)
    try:
        model: nn.Module = factory()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return model.eval(), factory.case


def truth_of(model: nn.Module, case: Case) -> Truth:
    """Every attention call of the model, and its weights (windows, heads, queries, keys)."""
    notes = take_notes(model, pixels(*case.size), of_library=case.library)
    mixtures = [mixture.numpy() for mixture in notes.mixtures]
    layers = case.layers(mixtures) if callable(case.layers) else case.layers
    notes.join(case.together)
    assert len(notes.weights) == len(layers), f"the oracle is not complete: {len(notes.weights)}"
    each = [
        weights.numpy().reshape(len(layer.queries), -1, *layer.shape)
        for layer, weights in zip(layers, notes.weights, strict=True)
    ]
    return list(zip(layers, each, strict=True))
