"""Modules whose predictions are a known function of the pixels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import ModelError
from attnviz.evaluation import perturbation
from attnviz.evaluation.perturbation import (
    PerturbationInput,
    perturb,
    predictor,
    remembered,
    shown,
    upsample,
)
from attnviz.geometry.grid import Box
from attnviz.geometry.placement import Fit, place
from attnviz.io.picture import Picture

SIDE = 20
X = np.arange(SIDE)
# The left quarter is what the class hangs on.
PERFECT = np.tile(SIDE - X, (SIDE, 1)).astype(np.float64)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def made(side: int = SIDE, padding: int = 0) -> PerturbationInput:
    """A picture of noise, in the middle of an input of zeros."""
    whole = torch.zeros(3, side + 2 * padding, side)
    picture = torch.rand(3, side, side, generator=torch.manual_seed(0)) + 0.1
    whole[:, padding : padding + side] = picture
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return PerturbationInput(whole, 0, padding, picture, mean, std)


class Quarter:
    """Says class 1 with the probability 0.1 + 0.8·(share of the left quarter that is as it was)."""

    def __init__(self, seen: PerturbationInput) -> None:
        self.own = seen.input
        self.batches: list[int] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        self.batches.append(len(inputs))
        same = (inputs == self.own).all(1)[:, :, : SIDE // 4].float().mean((1, 2))
        p = 0.1 + 0.8 * same
        return torch.stack([1 - p, p], dim=1)


def test_a_perfect_map() -> None:
    seen = made()
    found = perturb(seen, Quarter(seen), PERFECT, label=1)
    # p falls from 0.9 to 0.1 in the first quarter: 0.1 + 0.8·(1/8).
    assert found["deletion"] == pytest.approx(0.2)
    assert found["insertion"] == pytest.approx(0.1 + 0.8 * (1 / 8 + 3 / 4))
    # Right with 0 and 10 % gone, wrong from 20 % on; and right up to 80 % of the others.
    assert found["positive"] == pytest.approx(10 * (1 + 1 / 2))
    assert found["negative"] == pytest.approx(10 * (8 + 1 / 2))
    lightest = [0.9] * 7 + [0.1 + 0.8 * 0.8, 0.1 + 0.8 * 0.4]
    heaviest = [0.1 + 0.8 * 0.6, 0.1 + 0.8 * 0.2] + [0.1] * 7
    assert found["road"] == pytest.approx(np.mean(np.subtract(lightest, heaviest)) / 2)


def by_pairs(weights: list[float], costs: list[float]) -> float:
    """SaCo as algorithm 1 of 2404.01415 writes it."""
    found = whole = 0.0
    for i in range(len(weights) - 1):
        for j in range(i + 1, len(weights)):
            weight = weights[i] - weights[j]
            found += weight if costs[i] >= costs[j] else -weight
            whole += abs(weight)
    return found / whole


@pytest.mark.parametrize("columns", [X, (X * 7) % SIDE, X[::-1]])
def test_saco_compares_all_pairs_of_tenths(columns: NDArray[np.int64]) -> None:
    """A tenth are two columns; the class hangs on each of the left five alike."""
    seen = made()
    importance = np.tile(columns.astype(np.float64), (SIDE, 1))
    found = perturb(seen, Quarter(seen), importance, label=1)
    order = np.argsort(-columns, kind="stable")
    tenths = [set(order[2 * k : 2 * k + 2].tolist()) for k in range(10)]
    costs = [0.8 * len(each & {0, 1, 2, 3, 4}) / 5 for each in tenths]
    weights = [float(columns[sorted(each)].sum()) for each in tenths]
    assert found["saco"] == pytest.approx(by_pairs(weights, costs))
    assert np.isnan(perturb(seen, Quarter(seen), np.ones((SIDE, SIDE)), label=1)["saco"])


def test_a_group_has_the_mean_colour_of_the_picture() -> None:
    seen = made()
    inputs: list[Tensor] = []

    def keep(given: Tensor) -> Tensor:
        inputs.extend(given)
        return torch.full((len(given), 2), 0.5)

    perturb(seen, keep, PERFECT, label=0)
    last = inputs[-10]  # groups come last, the heaviest first: the two left columns
    mean = seen.picture.mean((1, 2))
    torch.testing.assert_close(last[:, :, :2], mean[:, None, None].expand(3, SIDE, 2))
    torch.testing.assert_close(last[:, :, 2:], seen.picture[:, :, 2:])


def test_the_inverse_map_is_the_perfect_one_upside_down() -> None:
    seen = made()
    best, worst = (perturb(seen, Quarter(seen), s * PERFECT, label=1) for s in (1, -1))
    assert worst["deletion"] == pytest.approx(0.1 + 0.8 * 7 / 8)
    assert worst["insertion"] == pytest.approx(0.2)
    assert (worst["positive"], worst["negative"]) == (best["negative"], best["positive"])
    assert worst["road"] == pytest.approx(-best["road"])


@pytest.mark.parametrize(("label", "expected"), [(0, 90), (1, 0)])
def test_a_classifier_that_is_always_right_has_90(label: int, expected: float) -> None:
    def zero(inputs: Tensor) -> Tensor:
        return torch.tensor([[0.75, 0.25]]).expand(len(inputs), 2)

    found = perturb(made(), zero, PERFECT, label=label)
    assert (found["positive"], found["negative"], found["road"]) == (expected, expected, 0)
    assert found["deletion"] == found["insertion"] == (0.75 if label == 0 else 0.25)


def test_deletion_is_to_zeros_and_insertion_from_a_blurred_picture() -> None:
    seen = made()
    inputs: list[Tensor] = []

    def watch(batch: Tensor) -> Tensor:
        inputs.extend(batch)
        return torch.full((len(batch), 2), 0.5)

    perturb(seen, watch, PERFECT, label=0)
    deleted, inserted = inputs[:33], inputs[33:66]
    assert torch.equal(deleted[0], seen.picture)
    assert torch.equal(inserted[32], seen.picture)
    assert not deleted[32].any()
    assert (deleted[8][:, :, :5] == 0).all()
    assert torch.equal(deleted[8][:, :, 5:], seen.picture[:, :, 5:])
    # Against a Gaussian window in two dimensions, at a pixel of the middle.
    places = np.arange(11) - 5
    window = np.exp(-(places[:, None] ** 2 + places**2) / 50)
    part = seen.picture[:, 4:15, 5:16].numpy()
    expected = (part * window).sum((1, 2)) / window.sum()
    np.testing.assert_allclose(inserted[0][:, 9, 10], expected, rtol=1e-5)
    black, mostly = inputs[66 + 9], inputs[66 + 10 + 9]
    pixels = black[:, 5, 5] * seen.std[:, 0, 0] + seen.mean[:, 0, 0]
    np.testing.assert_allclose(pixels, 0, atol=1e-6)  # black before normalisation
    assert torch.equal(black[:, :, 18:], seen.picture[:, :, 18:])
    assert torch.equal(mostly[:, :, :2], seen.picture[:, :, :2])


def test_padding_is_never_touched_and_few_inputs_are_held() -> None:
    seen = made(padding=4)
    quarter = Quarter(seen)

    def watch(batch: Tensor) -> Tensor:
        assert not batch[:, :, :4].any()
        assert not batch[:, :, 24:].any()
        return quarter(batch[:, :, :, :])

    perturb(seen, watch, PERFECT, label=1)
    assert max(quarter.batches) == perturbation.BATCH
    assert sum(quarter.batches) == 2 * 33 + 2 * 10 + 2 * 9 + 10


def test_equal_inputs_are_predicted_once() -> None:
    seen = made()
    direct = Quarter(seen)
    model = remembered(direct)
    other = PERFECT[::-1, ::-1].copy()
    for importance in (PERFECT, PERFECT, other):
        assert perturb(seen, model, importance, label=1) == perturb(
            seen, direct, importance, label=1
        )
    alone = Quarter(seen)
    model = remembered(alone)
    perturb(seen, model, PERFECT, label=1)
    first = sum(alone.batches)
    perturb(seen, model, PERFECT, label=1)
    assert sum(alone.batches) == first < 33 + 33 + 10 + 10 + 9 + 9 + 10


def test_noise_hangs_on_the_seed_alone() -> None:
    seen = made()

    def mean(batch: Tensor) -> Tensor:
        return batch.mean((1, 2, 3), keepdim=True)[:, :, 0, 0].expand(-1, 2)

    roads = [perturb(seen, mean, PERFECT, label=0, seed=seed)["road"] for seed in (0, 0, 1)]
    assert roads[0] == roads[1] != roads[2]


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96)])
def test_upsampling_is_torchs_bilinear(width: int, height: int) -> None:
    placement = place(width, height, size=round((width * height) ** 0.5), patch=16)
    values = np.random.default_rng(0).random((placement.grid.rows, placement.grid.columns))
    expected = F.interpolate(
        torch.from_numpy(values)[None, None], scale_factor=16, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(upsample(values, placement), expected[0, 0], atol=1e-12)


@pytest.mark.parametrize("fit", ["pad", "crop"])
def test_a_map_is_upsampled_where_the_picture_lies(fit: Fit) -> None:
    placement = place(96, 48, size=64, patch=16, fit=fit)
    values = np.random.default_rng(0).random((4, 4))
    whole = F.interpolate(torch.from_numpy(values)[None, None], scale_factor=16, mode="bilinear")
    part = whole[0, 0, 16:48] if fit == "pad" else whole[0, 0]
    np.testing.assert_allclose(upsample(values, placement), part, atol=1e-12)


def test_cells_that_begin_inside_the_input_are_upsampled_from_their_centres() -> None:
    placement = place(64, 64, size=64, patch=8)
    inside = replace(placement, target=Box(-3.0, 0.0, 61.0, 64.0))  # the first cell begins at 3
    found = upsample(np.tile(np.arange(8.0), (8, 1)), inside)[0]
    assert found[7] == pytest.approx(0.5 / 8)  # its centre at 7, the pixel's at 7.5
    assert found[0] == 0
    assert found[3 + 4 + 8 * 3] == pytest.approx(3 + 0.5 / 8)


def test_a_picture_is_found_in_the_models_input() -> None:
    model = replace(attnviz.load_model("random"), mean=MEAN, std=STD)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    picture = Picture("noise.png", pixels)
    placement = place(64, 32, size=64, patch=16, fit="pad")
    seen = shown(model, model.pixels(picture, placement), placement)
    back = (seen.picture * seen.std + seen.mean) * 255
    np.testing.assert_allclose(back.permute(1, 2, 0).numpy(), pixels, atol=1e-3)
    assert torch.equal(seen.with_picture(seen.picture), seen.input)
    assert seen.input[:, 16:48].shape == seen.picture.shape


class Gives(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> object:
        return self.output


LOGITS = torch.tensor([[0.0, np.log(3.0)]])


@pytest.mark.parametrize(
    "output",
    [LOGITS, SimpleNamespace(logits=LOGITS), (torch.zeros(1, 9, 2), LOGITS), {"scores": LOGITS}],
    ids=["tensor", "attribute", "tuple", "dict"],
)
def test_predictions_are_a_tensor_or_logits(output: object) -> None:
    model = replace(attnviz.load_model("random"), module=Gives(output))
    np.testing.assert_allclose(predictor(model)(torch.zeros(1, 3, 8, 8)), [[0.25, 0.75]])


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (torch.zeros(1, 197, 768), r"no class head \(its output is 1x197x768, not pictures x cla"),
        (torch.zeros(1, 1), r"no class head \(its output is 1x1"),
        ((torch.zeros(1, 9, 5),), r"no class head \(its output is tuple"),
        (torch.tensor([[0.0, torch.nan]]), "predictions are not finite"),
    ],
)
def test_what_predicts_no_class_says_so(output: object, told: str) -> None:
    model = replace(attnviz.load_model("random"), module=Gives(output))
    with pytest.raises(ModelError, match=told):
        predictor(model)(torch.zeros(1, 3, 8, 8))
