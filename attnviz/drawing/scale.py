"""Chooses the weights at the two ends of the colour map.

This module has no heavy imports, so that usage errors are answered at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attnviz.errors import UsageError
from attnviz.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["head", "layer", "all", "fixed", "log"]
_FLAT = 1e-5  # a relative difference of weights up to this is rounding, not structure


@dataclass(frozen=True)
class Scale:
    """A choice of range: per head, per layer, over all maps, fixed, or logarithmic per head."""

    kind: Kind
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Range:
    """The weights at the two ends of the colour map, for one map."""

    kind: Kind
    minimum: float
    maximum: float

    @property
    def flat(self) -> bool:
        """Whether the range is no more than rounding, so that there is no structure to draw."""
        return self.maximum - self.minimum <= _FLAT * abs(self.maximum)

    def position(self, values: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weights as positions on the colour map, 0…1; a flat map is in the middle."""
        import numpy as np  # noqa: PLC0415 — numpy stays out of `--help`

        low, high, weights = self.minimum, self.maximum, values.astype(np.float64)
        if self.kind == "log":
            weights = np.log(np.maximum(weights, low))
            low, high = math.log(low), math.log(high)
        if self.kind != "fixed" and self.flat:
            return np.full(values.shape, 0.5)
        return np.clip((weights - low) / (high - low), 0.0, 1.0)


def parse_scale(text: str) -> Scale:
    """Read `head`, `layer`, `all`, `log` or `LO:HI`.

    >>> parse_scale("0:0.05")
    Scale(kind='fixed', low=0.0, high=0.05)

    Raises:
        UsageError: anything else.
    """
    if text in ("head", "layer", "all", "log"):
        return Scale(text)  # type: ignore[arg-type]  # narrowed by the line above
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"--scale {text!r} cannot be read; give head, layer, all, log or LO:HI (0:0.05)"
        )
    return Scale("fixed", low, high)


def scale_of(method: str, text: str) -> Scale:
    """The scale of a method's maps: `head`, the default, is the method's own span if it has one.

    >>> scale_of("pca", "head")
    Scale(kind='fixed', low=-2.0, high=2.0)
    """
    span = METHODS[method].span
    return parse_scale(text) if span is None or text != "head" else Scale("fixed", *span)


def ranges(
    scale: Scale,
    weights: Sequence[NDArray[np.float32]],
    layers: Sequence[int],
    heads: Sequence[Hashable] | None = None,
) -> list[Range]:
    """The range of each map, from its drawn weights (n,) and its layer in `layers`.

    Maps of equal `heads` share one range if each head has its own; by default no two maps do.
    """
    import numpy as np  # noqa: PLC0415 — numpy stays out of `--help`

    groups: Sequence[Hashable] | None
    groups = {"layer": list(layers), "all": [0] * len(layers), "head": heads}.get(scale.kind)
    if groups is None:
        return [_range(scale, one) for one in weights]
    shared = {
        group: np.concatenate([w for w, of in zip(weights, groups, strict=True) if of == group])
        for group in set(groups)
    }
    return [_range(scale, shared[group]) for group in groups]


def _range(scale: Scale, weights: NDArray[np.float32]) -> Range:
    if scale.kind == "fixed":
        return Range("fixed", scale.low, scale.high)
    if scale.kind == "log":
        positive = weights[weights > 0]
        if not positive.size:
            return Range("log", 1.0, 1.0)
        return Range("log", float(positive.min()), float(positive.max()))
    return Range(scale.kind, float(weights.min()), float(weights.max()))
