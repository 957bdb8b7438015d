"""The oracles of panel and chains can fail: what is wrong is seen, what is right passes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from panel import hybrids, plain
from panel.chains import HEIGHT, PATCH, WIDTH
from panel.influence import Places, places_of
from panel.judge import CommandLine, Said, Truth, judge
from panel.models import made, truth_of

QUERIES = ("auto", "mean", "14,19")


@pytest.fixture
def right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Said, Truth]:
    """What the command line says of a plain model, and what is true of it."""
    model, case = made(plain, "ClassTokenFirst")
    spec = f"py:{plain.__file__}:ClassTokenFirst"
    return CommandLine(tmp_path, capsys).ask(spec, case, QUERIES, "all"), truth_of(model, case)


def _with_maps(said: Said, change: Callable[[Any], Any]) -> Said:
    return replace(said, arrays=said.arrays | {"maps": change(said.arrays["maps"])})


@pytest.mark.parametrize(
    "change",
    [
        lambda maps: maps[..., ::-1],
        lambda maps: maps[..., ::-1, :],
        lambda maps: maps[:, :, ::-1],
        lambda maps: maps[:, ::-1],
        lambda maps: maps[::-1],
        lambda maps: maps[..., :5],
        lambda maps: maps * 1.001,
    ],
    ids=["mirrored", "upside down", "heads", "layers", "queries", "columns", "scale"],
)
def test_wrong_maps_are_seen(right: tuple[Said, Truth], change: Callable[[Any], Any]) -> None:
    said, truth = right
    assert judge(said, truth, QUERIES, "all") == "right"
    with pytest.raises(AssertionError):
        judge(_with_maps(said, change), truth, QUERIES, "all")


def test_a_layer_that_vanishes_is_seen(right: tuple[Said, Truth]) -> None:
    said, truth = right
    shorter = said.arrays | {"layers": np.array([0, 1]), "maps": said.arrays["maps"][:, :2]}
    heads = [head for head in said.record["heads"] if head["layer"] < 2]
    fewer = replace(said, arrays=shorter, record=said.record | {"heads": heads})
    with pytest.raises(AssertionError, match="vanished"):
        judge(fewer, truth, QUERIES, "all")
    told = {"not_drawn": [{"layer": 2, "reason": "no places"}]}
    fewer.record["check"] = said.record["check"] | told
    assert judge(fewer, truth, QUERIES, "all").startswith("not drawn")


def test_a_peak_in_the_next_cell_is_seen(right: tuple[Said, Truth]) -> None:
    said, truth = right
    said.record["heads"][4]["map"]["peak_x"] += 8
    with pytest.raises(AssertionError, match="peak_x"):
        judge(said, truth, QUERIES, "all")


def test_weights_of_the_oracle_are_far_from_uniform() -> None:
    for module, name in ((plain, "ClassTokenFirst"), (hybrids, "Perceiver")):
        for layer, weights in truth_of(*made(module, name)):
            assert np.allclose(weights.sum(-1), 1)
            assert weights.max(-1).mean() > 2 / layer.shape[1]


def _picture() -> Tensor:
    return torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) + 0.5


def _patches(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, PATCH).flatten(2).transpose(1, 2)


def _lattice() -> Tensor:
    y, x = torch.meshgrid(torch.arange(4) * 4 + 2.0, torch.arange(6) * 4 + 2.0, indexing="ij")
    return torch.stack([x, y], -1)


def _of(chain: Callable[[Tensor], Tensor]) -> Places:
    return places_of(chain, _picture())


def test_patches_lie_at_their_centres_wherever_they_are_moved() -> None:
    lattice = _lattice()
    assert torch.allclose(_of(_patches).middle, lattice.flatten(0, 1), atol=1e-4)
    assert _of(_patches).cell == pytest.approx(4)
    mirrored = _of(lambda x: _patches(x.flip(3)))
    assert torch.allclose(mirrored.middle, lattice.flip(1).flatten(0, 1), atol=1e-4)
    turned = _of(lambda x: _patches(x.transpose(2, 3)))
    assert torch.allclose(turned.middle, lattice.transpose(0, 1).flatten(0, 1), atol=1e-4)


def test_constants_lie_nowhere_and_mixtures_everywhere() -> None:
    found = _of(lambda x: torch.cat([torch.ones(1, 1, 3), _patches(x)], 1))
    assert found.middle[0].isnan().all()
    assert found.somewhere.tolist() == [False, *24 * [True]]
    mixed = _of(lambda x: _patches(x) + _patches(x).mean(1, keepdim=True) * 24)
    assert not mixed.somewhere.any()


def test_a_place_half_a_cell_away_is_wrong() -> None:
    found = _of(_patches)
    assert not found.wrong(found.middle + 1.9).any()
    assert found.wrong(found.middle + torch.tensor([2.1, 0.0])).all()
