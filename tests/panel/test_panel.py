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
from panel.notes import true_weights
from panel.truth import Array, Case

FILES = ["plain", "frameworks"]
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


def _made(module: ModuleType, name: str) -> tuple[nn.Module, Case]:
    factory = getattr(module, name)
    try:
        model: nn.Module = factory()
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    return model.eval(), factory.case


def _weights(model: nn.Module, case: Case) -> list[Array]:
    found = [weights.numpy() for weights in true_weights(model, pixels(*case.size))]
    assert len(found) == len(case.layers), "the oracle of this model is not complete"
    for weights, layer in zip(found, case.layers, strict=True):
        shape = layer.queries.shape[:2], layer.keys.shape[:2]
        assert (weights.shape[::2], weights.shape[::3]) == shape, "the oracle is at odds with itself"
    return found


@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_command_line_is_right_or_says_what_is_not(
    module: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, case = _made(module, name)
    weights = _weights(model, case)
    for queries, layers in case.asks:
        spec = f"py:{module.__file__}:{name}"
        said = run("stats", spec, case, queries, layers, tmp_path, capsys)
        found = judge(said, case, weights, queries, layers)
        assert found.partition(":")[0] in case.may_be, found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_recording_is_right_in_every_grad_mode(
    module: ModuleType, name: str, mode: str
) -> None:
    model, case = _made(module, name)
    weights = _weights(model, case)
    with MODES[mode]():
        x = pixels(*case.size)
        with attnviz.record(picture=x) as recording:
            model(x)
    assert len(recording) == len(case.layers), f"{len(recording)} calls, {recording.unread}"
    for call, layer, expected in zip(recording, case.layers, weights, strict=True):
        found = call.matrix().detach().numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5 * expected.max()
        _check_places(call, "query", layer.queries, case)
        _check_places(call, "key", layer.keys, case)


def _check_places(call: AttentionCall, side: str, tokens: Array, case: Case) -> None:
    """Positions are the true ones; or they are None, where that may be."""
    found = getattr(call, f"{side}_positions")
    wanted = tokens[..., :2]
    if found is None:
        nowhere = np.isnan(wanted).all()
        assert nowhere or case.may_be != {"right"}, f"the place of every {side} is lost"
        return
    off = np.abs(found.numpy() - wanted).max(-1)
    lost = np.isnan(found.numpy()[..., 0]) & np.isfinite(wanted[..., 0])
    assert case.may_be != {"right"} or not lost.any(), f"{lost.sum()} {side} places are lost"
    made_up = np.isfinite(found.numpy()[..., 0]) & np.isnan(wanted[..., 0])
    assert not made_up.any(), f"{made_up.sum()} tokens that lie nowhere have a {side} place"
    assert not (off > case.within).any(), f"{side} places are off by up to {np.nanmax(off)} pixels"
