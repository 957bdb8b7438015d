"""What a classifier says when the pixels that a map marks are taken away, or given back."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from attnviz.evaluation import METRICS, PERTURBATION, Metric
from attnviz.evaluation.road import NOISE, noisy
from attnviz.geometry.placement import Placement
from attnviz.models.model import Model
from attnviz.models.scoring import logits

STEPS = 32
"""Of deletion and insertion, from none of the pixels to all."""
TENTHS = tuple(k / 10 for k in range(10))
"""Shares of the pixels that positive and negative perturbation take: 0 to 90 %."""
BLUR, TAPS = 5.0, 11
"""Standard deviation in pixels, and width, of the Gaussian that insertion begins from."""
BATCH, PIXELS = 16, 16 * 512 * 512
"""Inputs, and pixels of them, that are made and predicted at a time at most."""
Predict = Callable[[Tensor], Tensor]
Order = NDArray[np.int64]
Map = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PerturbationInput:
    """A model's input, and the part of it that is the picture.

    Attributes:
        input: (3, h, w) float32 on the CPU, normalised.
        left, top: where the picture begins in it.
        picture: (3, height, width), that part.
        mean, std: of the normalisation, (3, 1, 1).
    """

    input: Tensor
    left: int
    top: int
    picture: Tensor
    mean: Tensor
    std: Tensor

    def with_picture(self, picture: Tensor) -> Tensor:
        """The input with another picture in the place of its own, (3, h, w)."""
        _, height, width = picture.shape
        result = self.input.clone()
        result[:, self.top : self.top + height, self.left : self.left + width] = picture
        return result

    @property
    def black(self) -> Tensor:
        """What is 0 before normalisation, (3, height, width)."""
        return (-self.mean / self.std).expand_as(self.picture)

    @property
    def blurred(self) -> Tensor:
        """The picture under a Gaussian of σ 5 on 11×11 pixels, its edges continued."""
        places = torch.arange(TAPS) - TAPS // 2
        kernel = torch.exp(-0.5 * (places / BLUR) ** 2)
        kernel = kernel / kernel.sum()
        padded = F.pad(self.picture[None], [TAPS // 2] * 4, mode="replicate")[0][:, None]
        return F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])[
            :, 0
        ]


def shown(model: Model, pixels: Tensor, placement: Placement) -> PerturbationInput:
    """What a model was shown, of its input (1, 3, h, w) and the picture's place in it."""
    target = placement.target
    left, top = round(target.left), round(target.top)
    whole = pixels[0].float().cpu()
    picture = whole[:, top : round(target.bottom), left : round(target.right)]
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (model.mean, model.std))
    return PerturbationInput(whole, left, top, picture, mean, std)


def predictor(model: Model) -> Predict:
    """Probabilities (n, classes) in float32 on the CPU of inputs (n, 3, h, w).

    The model gives its logits as a tensor (n, classes), or as `.logits` of what it gives.

    Raises:
        ModelError: it gives something else, or what is not finite.
    """

    def predict(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            output = model.module(inputs.to(model.device, model.dtype))
        return logits(model, output).softmax(1).cpu()

    return predict


def upsample(values: Map, placement: Placement) -> Map:
    """A map at every pixel of the picture in the input, (height, width), bilinear.

    Between the centres of cells linear, beyond the outermost constant: what
    `F.interpolate(mode="bilinear")` does of cells that fill the input.

    Args:
        values: (rows, columns) of the cells.
        placement: of the cells; `target` says where the picture lies among them.
    """
    target, side = placement.target, placement.grid.patch
    down, across = (
        _between(count, (np.arange(round(end) - round(start)) + 0.5 + start) / side - 0.5)
        for count, start, end in zip(
            values.shape, (target.top, target.left), (target.bottom, target.right), strict=True
        )
    )
    return np.asarray(down @ values @ across.T)


def _between(count: int, places: Map) -> Map:
    """How much each of `count` values has of one at places between them, (places, count)."""
    return (1 - np.abs(places.clip(0, count - 1)[:, None] - np.arange(count))).clip(0)


def heaviest_first(importance: Map) -> Order:
    """Numbers of the pixels, (height·width,); among equals the first in reading order first."""
    return np.argsort(-importance.ravel(), kind="stable")


@dataclass(frozen=True, eq=False)
class PerturbationCurves:
    """What a classifier says while more and more pixels of a picture are changed.

    The curves are `deletion` and `insertion`, 33 places from none of the pixels to all;
    `positive` and `negative`, 0 to 90 % in tenths; `MoRF` and `LeRF`, 10 to 90 %, the heaviest or
    the lightest imputed. See `perturb`.

    Attributes:
        chance: of each curve the probability of the class, (places,) float64.
        right: of each curve whether the class is the predicted one, (places,).
    """

    chance: Mapping[str, NDArray[np.float64]]
    right: Mapping[str, NDArray[np.bool_]]


def perturb(
    seen: PerturbationInput, predict: Predict, importance: Map, *, label: int, seed: int = 0
) -> dict[str, float]:
    """Every number of a map that perturbation gives.

    - `deletion`, `insertion`: area under the probability of the class (1806.07421, §3.3), in 32
      steps, while the heaviest pixels become 0 as the model sees them (the mean colour), or take
      their own colours in a blurred picture;
    - `positive`, `negative`: 100 times the area under the accuracy from 0 to 90 % of the pixels
      set to black, heaviest or lightest first (2012.09838, §4): 90 for what is always right;
    - `road`: mean over 10 to 90 % of (p without the lightest − p without the heaviest) / 2, p the
      probability of the class, what is gone being imputed (2202.00449).

    Args:
        seen: what the model was shown.
        predict: inputs (n, 3, h, w) to probabilities (n, classes).
        importance: (height, width) of the picture's pixels in the input.
        label: the class that is meant: the one predicted, or the true one.
        seed: of the noise on imputed pixels.
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
    }
    found = {name: _predicted(seen, predict, changed) for name, changed in curves.items()}
    chance = {name: p[:, label].numpy().astype(np.float64) for name, p in found.items()}
    right = {name: (p.argmax(1) == label).numpy() for name, p in found.items()}
    made = PerturbationCurves(chance, right)
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
    """Half the probability that imputing the heaviest pixels costs beyond the lightest, mean."""
    return float((curves.chance["LeRF"] - curves.chance["MoRF"]).mean() / 2)


def area(values: NDArray[np.generic], step: float) -> float:
    """Area under values at places `step` apart, by trapezoids.

    >>> area(np.ones(10), 10)
    90.0
    """
    heights = np.asarray(values, dtype=np.float64)
    return float((heights[:-1] + heights[1:]).sum() / 2 * step)


def _replaced(start: Tensor, end: Tensor, order: Order, counts: Sequence[int]) -> Iterator[Tensor]:
    """Pictures of `start` whose first pixels in an order, so many each time, are those of `end`."""
    for count in counts:
        gone = _first(order, count, start)
        yield torch.where(gone, end, start)


def _imputed(
    seen: PerturbationInput, order: Order, counts: Sequence[int], seed: int
) -> Iterator[Tensor]:
    """Pictures whose first pixels in an order, so many each time, are imputed."""
    stream = np.random.RandomState(seed)  # whose numbers are frozen: NEP 19
    for count in counts:
        drawn = torch.from_numpy(stream.normal(0, NOISE, seen.picture.shape)).float()
        # The noise is of values before normalisation; imputing does not depend on their scale.
        known = ~_first(order, count, seen.picture)
        yield noisy(seen.picture, known, drawn / seen.std)


def _first(order: Order, count: int, like: Tensor) -> Tensor:
    """The first pixels of an order, (height, width)."""
    chosen = torch.zeros(order.size, dtype=torch.bool)
    chosen[torch.from_numpy(order[:count].copy())] = True
    return chosen.reshape(like.shape[1:])


def _predicted(seen: PerturbationInput, predict: Predict, made: Iterator[Tensor]) -> Tensor:
    """Predictions of pictures, (pictures, classes), of which no more than a batch is held."""
    found = []
    size = max(1, min(BATCH, PIXELS // seen.input[0].numel()))
    while batch := [seen.with_picture(picture) for picture in islice(made, size)]:
        found.append(predict(torch.stack(batch)))
    return torch.cat(found)
