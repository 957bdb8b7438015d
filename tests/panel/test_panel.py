"""Every model of the panel is right, through the command line and recorded in each grad mode.

Or it says, by name, what is lost: a layer that is not drawn, places that are assumed. What may come
out is written beside each model.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import attnviz
from attnviz.attention import AttentionCall
from panel import frameworks, plain
from panel.judge import CommandLine, judge, picture, pixels
from panel.models import find_models, made, truth_of
from panel.truth import Array, Case, half_a_cell

NESTED = "ignore:The PyTorch API of nested tensors:UserWarning"  # of the encoder's fast path
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


MODELS = find_models()
pytestmark = pytest.mark.filterwarnings(NESTED)


@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_command_line_is_right_or_says_what_is_not(
    module: ModuleType, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, case = made(module, name)
    truth = truth_of(model, case)
    spec = f"py:{module.__file__}:{name}"
    for queries, layers in case.asks:
        said = CommandLine(tmp_path, capsys).ask(spec, case, queries, layers)
        found = judge(said, truth, queries, layers)
        assert found.partition(":")[0] in case.may_be, found


@pytest.mark.parametrize("name", ["ClassTokenFirst", "NoClassToken", "Registers"])
def test_overlays_are_drawn_of_the_same_maps(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, case = made(plain, name)
    truth = truth_of(model, case)
    for queries, layers in case.asks:
        line = CommandLine(tmp_path, capsys, "show")
        said = line.ask(f"py:{plain.__file__}:{name}", case, queries, layers)
        assert judge(said, truth, queries, layers) == "right"
        files = [head["file"] for head in said.record["heads"]]
        assert len(set(files)) == len(queries) * sum(len(weights[0]) for _, weights in truth)
        assert all((tmp_path / "out" / "picture.png" / file).is_file() for file in files)


def test_the_program_says_the_same_as_the_function_it_calls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, case = made(frameworks, "encoder_norm_first")
    spec = f"py:{frameworks.__file__}:encoder_norm_first"
    within = CommandLine(tmp_path, capsys).ask(spec, case, ["mean"], "all")
    Image.fromarray(picture(*case.size)).save(tmp_path / "picture.png")
    line = [sys.executable, "-m", "attnviz", "stats", str(tmp_path / "picture.png"), "-m", spec]
    line += ["--layers", "all", "-q", "mean", "--json", "--patch", "8"]
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == within.record


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("module", "name"), MODELS)
def test_the_recording_is_right_in_every_grad_mode(
    module: ModuleType, name: str, mode: str
) -> None:
    model, case = made(module, name)
    truth = truth_of(model, case)
    with MODES[mode]():
        x = pixels(*case.size)
        with attnviz.record(picture=x) as recording:
            model(x)
    if len(recording) != len(truth):
        named = any(
            "nested tensors" in line for line in recording.unread
        )  # and the run is repeated
        assert named or case.may_be != {"right"}, f"{len(recording)} calls of {len(truth)}"
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
    low, high = (end.reduce(found, 1, keepdims=True) for end in (np.fmin, np.fmax))
    of_window = (
        (tokens[..., 2] == 1) & (np.abs(found - (low + high) / 2).max(-1) < 1e-3) & (len(found) > 1)
    )
    made_up = there & ~seen & (tokens[..., 2] != 2) & ~of_window
    assert not made_up.any(), f"{made_up.sum()} tokens that lie nowhere have a {side} place"
    off = np.where(there & seen, np.abs(found - wanted).max(-1), 0.0)
    within = case.within if case.within is not None else half_a_cell(wanted)
    assert (off <= within).all(), f"{side} places are off by up to {off.max():.1f} pixels"
