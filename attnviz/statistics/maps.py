"""Numbers of one drawn map."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.geometry.placement import Placement

KEEP = 0.6


@dataclass(frozen=True)
class MapNumbers:
    """What a map's weights say: see `describe`."""

    minimum: float
    maximum: float
    entropy: float
    peak_x: float
    peak_y: float
    area60: float


def describe(
    values: NDArray[np.float32], drawn: NDArray[np.bool_], placement: Placement
) -> MapNumbers:
    """Numbers of one map, (rows, columns), over its `drawn` tokens.

    - minimum, maximum: of the weights as drawn, not renormalised;
    - entropy: of the weights divided by their sum, in nats; what is below 0 counts as 0;
    - peak_x, peak_y: centre of the heaviest token in picture pixels (of its part on the
      picture, where padding cuts it), the first in reading order among equals;
    - area60: `smallest_count(…, 0.6)` of the weights, those below 0 as 0, as a share of the drawn
      tokens (Caron et al., 2104.14294).
    """
    weights = values[drawn].astype(np.float64)
    positive = weights.clip(0)
    total = float(positive.sum())
    p = positive[positive > 0] / total if total > 0 else positive
    row, column = np.argwhere(drawn)[int(weights.argmax())]
    x, y = placement.visible_centre(int(row), int(column))
    return MapNumbers(
        minimum=float(weights.min()),
        maximum=float(weights.max()),
        entropy=max(0.0, float(-(p * np.log(p)).sum())) if total > 0 else 0.0,
        peak_x=x,
        peak_y=y,
        area60=smallest_count(positive, KEEP) / len(weights),
    )


def smallest_count(weights: NDArray[np.float64], share: float) -> int:
    """Size of the smallest set of weights that holds `share` of their sum.

    >>> smallest_count(np.full(196, 1 / 196), 0.6)
    118
    """
    descending = np.sort(weights)[::-1].cumsum()
    # Weights come from float32: 0.6 of ten equal ones is six, whatever the last digit says.
    enough = descending >= descending[-1] * (share - 1e-6)
    return int(enough.argmax()) + 1
