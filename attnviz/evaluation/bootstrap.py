"""How far a mean would move with other pictures."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES, LEVEL = 2000, 0.95
_AT_ONCE = 4_000_000  # counts that are held at a time, 32 MB


def intervals(
    values: NDArray[np.float64], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> NDArray[np.float64]:
    """Percentile bootstrap intervals of means, (2, columns): lower ends, then upper ones.

    Pictures are drawn with replacement, as many as there are, `resamples` times; the ends are the
    (1 − level)/2 and (1 + level)/2 quantiles of the means (Efron 1979). All columns see the same
    draws. NaN counts in no mean.

    Args:
        values: (pictures, columns), a number of each picture.
        seed: of the draws, the same on every machine.
        resamples: how often pictures are drawn.
        level: share of the means between the ends.

    >>> intervals(np.full((10, 1), 0.3)).ravel()
    array([0.3, 0.3])
    """
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    low, high = ((1 + sign * level) / 2 for sign in (-1, 1))
    result = np.full((2, values.shape[1]), np.nan)
    some = known.any(0)
    if not some.any():
        return result
    with np.errstate(invalid="ignore"):  # 0/0: draws that missed all that is known
        means = np.concatenate([
            (draws @ filled[:, some]) / (draws @ known[:, some])
            for draws in _draws(len(values), resamples, seed)
        ])  # fmt: skip
    ends = np.nanquantile(means, [low, high], axis=0)
    # A mean lies among its values, whatever the last digit says.
    lowest = np.where(known, values, np.inf)[:, some].min(0)
    highest = np.where(known, values, -np.inf)[:, some].max(0)
    result[:, some] = ends.clip(lowest, highest)
    return result


def _draws(pictures: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each picture is drawn, (resamples, pictures) in parts."""
    stream = np.random.RandomState(seed)  # whose numbers are frozen: NEP 19
    part = max(1, _AT_ONCE // pictures)
    share = np.full(pictures, 1 / pictures)
    for done in range(0, resamples, part):
        size = min(part, resamples - done)
        yield stream.multinomial(pictures, share, size=size).astype(np.float64)
