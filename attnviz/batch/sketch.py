"""Mean, deviation and quantiles of a stream of numbers, in bounded memory.

Up to `EXACT` values, everything is exact. More values are counted in buckets: a bucket is a float64
whose mantissa is cut to 9 bits, so a value changes by at most 2⁻¹⁰ of itself (DDSketch, Masson et
al. 2019, 1908.10693, uses the logarithm instead of the bits).
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXACT = 4096
"""The largest number of values that are kept exactly."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CUT = 52 - 9  # bits of a float64's mantissa that a bucket ignores
_MAGNITUDE = np.int64(2**63 - 1)


@dataclass(frozen=True)
class Summary:
    """The distribution of one number over many pictures.

    Attributes:
        known, missing: how many values are defined, and how many are not.
        mean, deviation: NaN if no value is defined. The deviation is √(mean of the squared
            differences from the mean) of these values, not an estimate for a larger population.
        quantiles: the quantiles `QUANTILES`.
    """

    count: int
    missing: int
    mean: float
    deviation: float
    quantiles: tuple[float, ...]


class Sketch:
    """Summarises a stream of rows of numbers, each column by itself.

    >>> sketch = Sketch(columns=2)
    >>> for x in range(101):
    ...     sketch.add([x, math.nan])
    >>> summary, _ = sketch.summaries()
    >>> summary.mean, summary.quantiles
    (50.0, (5.0, 25.0, 50.0, 75.0, 95.0))
    """

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self._pending = array("d")  # rows × columns
        self._columns = [_Column() for _ in range(columns)]

    def add(self, numbers: Iterable[float]) -> None:
        """Add one row, (columns,); NaN is a number that is not defined."""
        if self.rows and self.rows % EXACT == 0:
            self._flush()
        self._pending.extend(numbers)
        self.rows += 1

    def summaries(self) -> list[Summary]:
        """The summary of each column."""
        rest = self._matrix()
        return [
            column.summary(rest[:, i], rows=self.rows) for i, column in enumerate(self._columns)
        ]

    def _matrix(self) -> NDArray[np.float64]:
        # Copy, since an array cannot grow while numpy views it.
        return np.array(self._pending, np.float64).reshape(-1, len(self._columns))

    def _flush(self) -> None:
        for column, values in zip(self._columns, self._matrix().T, strict=True):
            column.take(values[~np.isnan(values)])
        self._pending = array("d")


class _Column:
    """The bucket counts and moments (Chan, Golub & LeVeque 1983) of one number."""

    def __init__(self) -> None:
        self._keys = np.empty(0, np.int32)
        self._counts = np.empty(0, np.int64)
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._low, self._high = math.inf, -math.inf

    def take(self, values: NDArray[np.float64]) -> None:
        """Count values, none of which is NaN."""
        if not len(values):
            return
        self._count, self._mean, self._squares = self._moments(values)
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        self._keys, self._counts = self._merged(values)

    def _moments(self, values: NDArray[np.float64]) -> tuple[int, float, float]:
        """Count, mean and sum of squares around the mean, including these values."""
        more, before = len(values), self._count
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        both, apart = before + more, mean - self._mean
        return (
            both,
            self._mean + apart * more / both,
            self._squares + squares + apart**2 * before * more / both,
        )

    def _merged(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        new, counts = np.unique(_bucket(values), return_counts=True)
        keys, place = np.unique(np.concatenate([self._keys, new]), return_inverse=True)
        total = np.zeros(len(keys), np.int64)
        np.add.at(total, place, np.concatenate([self._counts, counts]))
        return keys, total

    def summary(self, rest: NDArray[np.float64], *, rows: int) -> Summary:
        """The summary including `rest`, values not yet counted; it does not change this column."""
        values = rest[~np.isnan(rest)]
        count = self._count + len(values)
        if not count:
            return Summary(0, rows, math.nan, math.nan, (math.nan,) * len(QUANTILES))
        _, mean, squares = self._moments(values) if len(values) else (0, self._mean, self._squares)
        low, high = (
            float(end(values, initial=limit))
            for end, limit in ((np.min, self._low), (np.max, self._high))
        )
        found = self._quantiles(values)
        return Summary(
            count=count,
            missing=rows - count,
            mean=min(max(mean, low), high),  # despite rounding
            deviation=math.sqrt(squares / count),
            quantiles=tuple(float(q) for q in found.clip(low, high)),
        )

    def _quantiles(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quantiles, interpolated between the values on both sides of a rank (`numpy.quantile`)."""
        if not self._count:
            return np.asarray(np.quantile(values, QUANTILES))
        keys, counts = self._merged(values)
        ends = counts.cumsum()
        ranks = np.array(QUANTILES) * (ends[-1] - 1)
        below = np.floor(ranks)
        first, second = (
            _middle(keys[np.searchsorted(ends, rank, side="right")])
            for rank in (below, np.ceil(ranks))
        )
        return np.asarray(first + (second - first) * (ranks - below))


def _bucket(values: NDArray[np.float64]) -> NDArray[np.int32]:
    """The buckets of values, numbered in their order: sign, exponent and 9 bits of the mantissa."""
    bits = np.ascontiguousarray(values).view(np.int64)
    return np.where(bits < 0, -((bits & _MAGNITUDE) >> _CUT), bits >> _CUT).astype(np.int32)


def _middle(keys: NDArray[np.int32]) -> NDArray[np.float64]:
    """The middle value of each bucket; 0 for the bucket at 0."""
    half = np.int64(1) << (_CUT - 1)  # between two powers of 2, steps of bits are even
    size = (np.abs(keys).astype(np.int64) << _CUT) + half
    return np.where(keys == 0, 0.0, np.sign(keys) * size.view(np.float64))
