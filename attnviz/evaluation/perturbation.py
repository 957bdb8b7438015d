"""Measures a classifier's predictions while pixels are removed or restored in a map's order."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha1
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attnviz.evaluation import METRICS, PERTURBATION, Metric
from attnviz.geometry.placement import Placement
from attnviz.models.model import Model
from attnviz.models.read_output import logits

STEPS = 32
"""Number of steps of deletion and insertion, from none of the pixels to all."""
TENTHS = tuple(k / 10 for k in range(10))
"""Shares of the pixels that positive and negative perturbation remove: 0 to 90 %."""
GROUPS = 10
"""Groups of pixels of like weight, of which SaCo replaces one at a time."""
BLUR, TAPS = 5.0, 11
"""Standard deviation and width, in pixels, of the Gaussian blur at the start of insertion."""
BATCH, PIXELS = 16, 16 * 512 * 512
"""The most inputs, and the most pixels, that are made and predicted at a time."""
Predict = Callable[[Tensor], Tensor]
Order = NDArray[np.int64]
Map = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PerturbationInput:
    """A model's input, and the part of it that is the picture.

    Attributes:
        input: (3, h, w) float32 on the CPU, normalised.
        left, top: where the picture begins in it.
        picture: (channels, height, width), the part that is the picture.
        mean, std: mean and standard deviation of the normalisation, (3, 1, 1).
    """

    input: Tensor
    left: int
    top: int
    picture: Tensor
    mean: Tensor
    std: Tensor

    def with_picture(self, picture: Tensor) -> Tensor:
        """The input with another picture in place of its own, (3, h, w)."""
        _, height, width = picture.shape
        result = self.input.clone()
        result[:, self.top : self.top + height, self.left : self.left + width] = picture
        return result

    @property
    def black(self) -> Tensor:
        """A black picture, which is 0 before normalisation, (channels, height, width)."""
        return (-self.mean / self.std).expand_as(self.picture)

    @property
    def blurred(self) -> Tensor:
        """The picture blurred by a Gaussian of σ 5 on 11×11 pixels, with its edges repeated."""
        places = torch.arange(TAPS) - TAPS // 2
        kernel = torch.exp(-0.5 * (places / BLUR) ** 2)
        kernel = kernel / kernel.sum()
        padded = F.pad(self.picture[None], [TAPS // 2] * 4, mode="replicate")[0][:, None]
        return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[
            :, 0
        ]


def shown(model: Model, pixels: Tensor, placement: Placement) -> PerturbationInput:
    """What the model was shown: its input (1, 3, h, w), and the picture's place in it."""
    target = placement.target
    left, top = round(target.left), round(target.top)
    whole = pixels[0].float().cpu()
    picture = whole[:, top : round(target.bottom), left : round(target.right)]
    mean, std = (numbers[:, None, None] for numbers in model.statistics(len(whole)))
    if model.sound is not None:  # its quietest place is black
        mean = -picture.amin().reshape(1, 1, 1)
    return PerturbationInput(whole, left, top, picture, mean, std)


def predictor(model: Model) -> Predict:
    """A function from inputs (n, 3, h, w) to probabilities (n, classes) in float32 on the CPU.

    The model must return its logits as a tensor (n, classes), or as the `.logits` of its output.

    Raises:
        ModelError: the model returns something else, or logits that are not finite.
    """

    def predict(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output = model.module(inputs.to(model.device, model.dtype))
        return logits(model, output).softmax(1).cpu()

    return predict


def remembered(predict: Predict) -> Predict:
    """The same function, which predicts for equal inputs once: curves and maps share their ends."""
    found: dict[bytes, Tensor] = {}

    def look_up(inputs: Tensor) -> Tensor:
        keys = [sha1(each.numpy(), usedforsecurity=False).digest() for each in inputs.contiguous()]
        new = {key: place for place, key in enumerate(keys) if key not in found}
        if new:
            found.update(zip(new, predict(inputs[list(new.values())]), strict=True))
        return torch.stack([found[key] for key in keys])

    return look_up


def upsample(values: Map, placement: Placement) -> Map:
    """A map at every pixel of the picture in the input, (height, width), bilinear.

    Values are linear between the centres of cells, and constant beyond the outermost centres, like
    `F.interpolate(mode="bilinear")` for cells that fill the input.

    Args:
        values: (rows, columns) of the cells.
        placement: the placement of the cells; `target` says where the picture lies among them.
    """
    target, grid = placement.target, placement.grid
    columns = np.arange(round(target.right) - round(target.left)) + 0.5 + target.left
    rows = np.arange(round(target.bottom) - round(target.top)) + 0.5 + target.top
    across = _between(grid.columns, np.asarray(columns / grid.cell_width - 0.5))
    down = _between(grid.rows, np.asarray(rows / grid.cell_height - 0.5))
    return np.asarray(down @ values @ across.T)


def _between(count: int, places: Map) -> Map:
    """The share of each of `count` values at places between them, (places, count)."""
    return (1 - np.abs(places.clip(0, count - 1)[:, None] - np.arange(count))).clip(0)


def heaviest_first(importance: Map) -> Order:
    """Numbers of the pixels, (height·width,), the heaviest first; equal ones in reading order."""
    return np.argsort(-importance.ravel(), kind="stable")


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """A classifier's predictions while more and more pixels of a picture change.

    The curves are `deletion` and `insertion`, 33 places from none of the pixels to all;
    `positive` and `negative`, 0 to 90 % in tenths; `MoRF` and `LeRF`, 10 to 90 %, with the heaviest
    or the lightest pixels imputed; `groups`, ten places, with one tenth of the pixels alone in the
    picture's mean colour, the heaviest tenth first. See `perturb`.

    Attributes:
        chance: for each curve, the probability of the class, (places,) float64.
        right: for each curve, whether the class is the predicted one, (places,).
        weights: the sum of the map over the pixels of each group of `groups`, (places,).
    """

    chance: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.bool_]]
    weights: NDArray[np.float64]


def perturb(
    seen: PerturbationInput, predict: Predict, importance: Map, *, label: int, seed: int = 0
) -> dict[str, float]:
    """All metrics of a map that come from perturbation.

    - `deletion`, `insertion`: area under the probability of the class (1806.07421, §3.3), in 32
      steps. For deletion the heaviest pixels become 0 as the model sees them (the mean colour); for
      insertion they get their own colours in a blurred picture.
    - `positive`, `negative`: 100 times the area under the accuracy from 0 to 90 % of the pixels
      set to black, heaviest or lightest first (2012.09838, §4): 90 if it is always right.
    - `road`: mean over 10 to 90 % of (p without the lightest − p without the heaviest) / 2, where p
      is the probability of the class and removed pixels are imputed (2202.00449).
    - `saco`: whether heavier tenths of the pixels cost more than lighter ones (2404.01415).

    Args:
        seen: what the model was shown.
        predict: a function from inputs (n, 3, h, w) to probabilities (n, classes).
        importance: (height, width) of the picture's pixels in the input.
        label: the class: the predicted one, or the true one.
        seed: seed of the noise on imputed pixels.
    """
    first, last = heaviest_first(importance), heaviest_first(importance)[::-1]
    own, nothing = seen.picture, torch.zeros_like(seen.picture)
    steps = [round(k / STEPS * len(first)) for k in range(STEPS + 1)]
    tenths = [int(share * len(first) + 1e-9) for share in TENTHS]
    curves = {
        "deletion": _replaced(own, nothing, first, steps),
        "insertion": _replaced(seen.blurred, own, first, steps),
        "positive": _replaced(own, seen.black, first, tenths),
        "negative": _replaced(own, seen.black, last, tenths),
        "MoRF": _imputed(seen, first, tenths[1:], seed),
        "LeRF": _imputed(seen, last, tenths[1:], seed),
        "groups": _grouped(own, groups := np.array_split(first, GROUPS)),
    }
    found = {name: _predicted(seen, predict, changed) for name, changed in curves.items()}
    chance = {name: p[:, label].numpy().astype(np.float64) for name, p in found.items()}
    right = {name: (p.argmax(1) == label).numpy() for name, p in found.items()}
    made = PerturbationCurves(
        chance, right, np.array([importance.ravel()[each].sum() for each in groups])
    )
    of_curves = {name: each for name, each in METRICS.items() if each.group == PERTURBATION}
    return {name: _number(entry, made) for name, entry in of_curves.items()}


def _number(entry: Metric, curves: PerturbationCurves) -> float:
    return entry.run_or(math.nan, lambda: float(entry(curves)))


def deletion(curves: PerturbationCurves) -> float:
    """Area under the probability of the class while the heaviest pixels are deleted."""
    return area(curves.chance["deletion"], 1 / STEPS)


def insertion(curves: PerturbationCurves) -> float:
    """Area under the probability of the class while the heaviest pixels are inserted."""
    return area(curves.chance["insertion"], 1 / STEPS)


def positive(curves: PerturbationCurves) -> float:
    """100 times the area under the accuracy from 0 to 90 % of the pixels, heaviest first."""
    return area(curves.right["positive"], 10)


def negative(curves: PerturbationCurves) -> float:
    """100 times the area under the accuracy from 0 to 90 % of the pixels, lightest first."""
    return area(curves.right["negative"], 10)


def road(curves: PerturbationCurves) -> float:
    """Mean of (p without the lightest − p without the heaviest) / 2, p the class's probability."""
    return float((curves.chance["LeRF"] - curves.chance["MoRF"]).mean() / 2)


def saco(curves: PerturbationCurves) -> float:
    """Share of the differences of weight, of two groups, that costs of probability agree with.

    For all groups i before j: s_i − s_j counts for the map if replacing group i costs at least as
    much as replacing j, else against it; divided by the sum of all. NaN for a flat map.
    """
    cost, weights = curves.chance["deletion"][0] - curves.chance["groups"], curves.weights
    one, other = np.triu_indices(len(weights), 1)
    gaps = weights[one] - weights[other]
    signs = np.where(cost[one] >= cost[other], 1.0, -1.0)
    whole = float(np.abs(gaps).sum())
    return float((signs * gaps).sum()) / whole if whole > 0 else math.nan


def area(values: NDArray[np.generic], step: float) -> float:
    """Area under values at places `step` apart, by the trapezoidal rule.

    >>> area(np.ones(10), 10)
    90.0
    """
    heights = np.asarray(values, dtype=np.float64)
    return float((heights[:-1] + heights[1:]).sum() / 2 * step)


def _replaced(start: Tensor, end: Tensor, order: Order, counts: Sequence[int]) -> Iterator[Tensor]:
    """For each count, `start` with its first `count` pixels in an order replaced from `end`."""
    for count in counts:
        gone = _first(order, count, start)
        yield torch.where(gone, end, start)


def _grouped(start: Tensor, groups: Sequence[Order]) -> Iterator[Tensor]:
    """For each group of pixels, `start` with these alone in its mean colour."""
    mean = start.mean((1, 2), keepdim=True).expand_as(start)
    for group in groups:
        yield torch.where(_first(group, len(group), start), mean, start)


def _imputed(
    seen: PerturbationInput, order: Order, counts: Sequence[int], seed: int
) -> Iterator[Tensor]:
    """For each count, the picture with its first `count` pixels in an order imputed."""
    from attnviz.evaluation.road import NOISE, noisy  # noqa: PLC0415 — SciPy, for this alone

    stream = np.random.RandomState(seed)  # a frozen stream: NEP 19
    for count in counts:
        drawn = torch.from_numpy(stream.normal(0, NOISE, seen.picture.shape)).float()
        # The noise is added before normalisation; imputing does not depend on the scale.
        known = ~_first(order, count, seen.picture)
        yield noisy(seen.picture, known, drawn / seen.std)


def _first(order: Order, count: int, like: Tensor) -> Tensor:
    """True at the first `count` pixels of an order, (height, width)."""
    chosen = np.zeros(like[0].numel(), dtype=bool)
    chosen[order[:count]] = True  # PyTorch's own writing is many times slower
    return torch.from_numpy(chosen.reshape(like.shape[1:]))


def _predicted(seen: PerturbationInput, predict: Predict, made: Iterator[Tensor]) -> Tensor:
    """Predictions for pictures, (pictures, classes); memory holds one batch at a time."""
    size = max(1, min(BATCH, PIXELS // seen.input[0].numel()))
    batches = _ahead(iter(lambda: list(islice(made, size)), []))
    return torch.cat(
        [predict(torch.stack([seen.with_picture(each) for each in batch])) for batch in batches]
    )


def _ahead(made: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
    """The same batches, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield batch
