"""Every model of the panel is right, through the command line and recorded in each grad mode.

Or it says, by name, what is lost: a layer that is not drawn, places that are assumed. What may come
out is written beside each model.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.attention import AttentionCall
from panel.judge import judge, pixels, run
from panel.notes import take_notes
from panel.truth import Array, Case, Layer, half_a_cell

FILES = ["plain", "frameworks", "spellings", "pieces", "moved", "warped", "hybrids", "outputs", "packaged", "packaged_more"]
NESTED = "ignore:The PyTorch API of nested tensors:UserWarning"  # of the encoder's fast path
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def _models() -> list[Any]:
    """Every marked factory of every file, as (module, name)."""
    found = []
    for file in FILES:
        module = importlib.import_module(f"panel.{file}")
        for name, value in vars(module).items():
            case = getattr(value, "case", None)
            if isinstance(case, Case) and value.__module__ == module.__name__:
                found.append(pytest.param(module, name, id=f"{file}-{name}"))
    return found


MODELS = _models()
pytestmark = pytest.mark.filterwarnings(NESTED)


def _made(module: ModuleType, name: str) -> tuple[nn.Module, Case]:
    factory = getattr(module, name)
    try:
        model: nn.Module = factory()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return model.eval(), factory.case


def _truth(model: nn.Module, case: Case) -> list[tuple[Layer, Array]]:
    """Every attention call of the model, and its weights."""
    notes = take_notes(model, pixels(*case.size), of_library=case.library)
    mixtures = [each.numpy() for each in notes.mixtures]
    layers = case.layers(mixtures) if callable(case.layers) else case.layers
    notes.join(case.together)
    assert len(notes.weights) == len(layers), f"the oracle is not complete: {len(notes.weights)}"
    each = [
        weights.numpy().reshape(len(layer.queries), -1, *layer.shape)
        for layer, weights in zip(layers, notes.weights, strict=True)
    ]
    return list(zip(layers, each, strict=True))


@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_command_line_is_right_or_says_what_is_not(
    module: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, case = _made(module, name)
    truth = _truth(model, case)
    spec = f"py:{module.__file__}:{name}"
    for queries, layers in case.asks:
        said = run("stats", spec, case, queries, layers, tmp_path, capsys)
        found = judge(said, truth, queries, layers)
        assert found.partition(":")[0] in case.may_be, found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_recording_is_right_in_every_grad_mode(
    module: ModuleType, name: str, mode: str
) -> None:
    model, case = _made(module, name)
    truth = _truth(model, case)
    with MODES[mode]():
        x = pixels(*case.size)
        with attnviz.record(picture=x) as recording:
            model(x)
    if len(recording) != len(truth):
        assert case.may_be != {"right"}, f"{len(recording)} calls of {len(truth)}"
        return
    for call, (layer, expected) in zip(recording, truth, strict=True):
        found = call.matrix().detach().numpy()
        if layer.can_be_drawn:
            assert found.shape == expected.shape
        found = found.reshape(expected.shape)  # what a head is may be open where nothing is drawn
        assert np.abs(found - expected).max() < 1e-5 * expected.max()
        _check_places(call, "query", layer.queries, case)
        _check_places(call, "key", layer.keys, case)


def _check_places(call: AttentionCall, side: str, tokens: Array, case: Case) -> None:
    """Positions are the true ones; or they are lost (None, infinite), where that may be."""
    positions = getattr(call, f"{side}_positions")
    wanted = tokens[..., :2]
    if positions is None:
        nowhere = np.isnan(wanted).all()
        assert nowhere or case.may_be != {"right"}, f"the place of every {side} is lost"
        return
    found = positions.numpy()
    there, seen = np.isfinite(found[..., 0]), np.isfinite(wanted[..., 0])
    lost = np.isinf(found[..., 0]) if case.may_be != {"right"} else False
    denied = seen & ~there & ~lost
    assert not denied.any(), f"{denied.sum()} {side} places are lost, or said to be nowhere"
    made_up = there & ~seen & (tokens[..., 2] != 2)
    assert not made_up.any(), f"{made_up.sum()} tokens that lie nowhere have a {side} place"
    off = np.where(there & seen, np.abs(found - wanted).max(-1), 0.0)
    within = case.within if case.within is not None else half_a_cell(wanted)
    assert (off <= within).all(), f"{side} places are off by up to {off.max():.1f} pixels"
