"""Samples of any type as 8 bits: which values span black to white, and what is to be said of it."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attnviz.io.picture_notes import Note
from attnviz.io.ranges import FULL, PERCENTS, ValueRange, number

NARROW = 1 / 5
"""Values that use less than this share of the range are told."""
NARROW_MOST = 1 / 10
"""So are they where all but 1 % use less than this: a burned-in letter hides nothing."""
_FITS = ((0.0, 255.0), (0.0, 65535.0))
"""What samples of 32 bits and more stand for where they reach a fifth of it, and not beyond."""
_ENOUGH = 1_000_000
"""Values that tell how most of them are spread."""
_ROWS = 1 << 20
"""Values that are scaled at once: float64 takes eight times the memory of 8 bits."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What a file holds, before it is 8 bits.

    Attributes:
        values: (height, width, 1 or 3), of any type; NaN where there is no value.
        kind: what the file's numbers are.
        bits: of a sample in the file, which may be fewer than its type here has.
        largest: value that the file says is white; None where its bits say so.
        alpha: (height, width) uint8, 0 where it is transparent.
        white_is_zero: whether small values are bright.
        profile: ICC profile.
        orientation: EXIF's number of how it is to be turned.
    """

    values: NDArray[Any]
    kind: Literal["unsigned", "signed", "float"]
    bits: int
    largest: int | None = None
    alpha: NDArray[np.uint8] | None = None
    white_is_zero: bool = False
    profile: bytes | None = None
    orientation: int = 1

    @property
    def ordinary(self) -> bool:
        """Whether they are as a person's pictures are: unsigned, of 8 bits at most."""
        return self.kind == "unsigned" and self.bits <= 8

    @property
    def span(self) -> tuple[float, float] | None:
        """What the type spans; None where it says nothing of what its samples stand for."""
        if self.kind == "float" or self.bits > 16:
            return None
        if self.kind == "signed":
            return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1
        return 0.0, float(self.largest or 2**self.bits - 1)


Span = tuple[float, float]


def take(samples: Samples, value_range: ValueRange) -> tuple[Span, list[Note]]:
    """The values that are black and white, and what should be known of them."""
    finite = samples.values
    notes = []
    if samples.values.dtype.kind == "f":
        finite = samples.values[np.isfinite(samples.values)]
        notes = _missing(samples.values)
    if not finite.size:
        return (0.0, 1.0), notes
    low, high = float(finite.min()), float(finite.max())
    span = _chosen(samples, value_range, finite, (low, high))
    if span is None:
        notes.append(_range_note(samples, (low, high)))
        return _widened(low, high), notes
    if samples.ordinary and value_range.kind == FULL:
        return span, notes  # a dark picture is dark
    return span, notes + _narrow(finite, (low, high), span)


def _chosen(
    samples: Samples, value_range: ValueRange, finite: NDArray[Any], extremes: Span
) -> Span | None:
    """The range that is wanted; None where nothing but the values themselves says what it is."""
    if value_range.kind == "fixed":
        return value_range.low, value_range.high
    if value_range.kind == "percentile":
        low, high = (float(each) for each in np.percentile(finite, PERCENTS))
        # Of few values that differ from all others the percentiles see nothing.
        return (low, high) if low < high else _widened(*extremes)
    return samples.span or _fitting(samples, extremes)


def _fitting(samples: Samples, extremes: Span) -> Span | None:
    """The span that floats and long integers are likely to be of, by their values."""
    low, high = extremes
    if samples.kind == "float" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return next((fit for fit in _FITS if low >= 0 and NARROW * fit[1] <= high <= fit[1]), None)


def _widened(low: float, high: float) -> Span:
    """A span that is none, of a picture of one value, with the value in its middle: grey."""
    if low < high:
        return low, high
    step = max(0.5, abs(low) * 1e-6)
    return low - step, high + step


def _range_note(samples: Samples, extremes: Span) -> Note:
    what = "floats" if samples.kind == "float" else f"{samples.bits}-bit integers"
    low, high = (number(value) for value in extremes)
    if low == high:
        return Note("own", f"all values are {low}: a grey picture")
    return Note(
        "own",
        f"{what} of {low} … {high}, whose type says no range, are drawn from the smallest to the "
        f"largest; add --range {low}:{high} to draw others alike",
    )


def _missing(values: NDArray[Any]) -> list[Note]:
    count = int(np.isnan(values).sum())
    if not count:
        return []
    share = f"{100 * count / values.size:.2g} %"
    return [Note("missing", f"{share} of the values are no numbers: they are drawn black")]


def _narrow(finite: NDArray[Any], extremes: Span, span: Span) -> list[Note]:
    """What to say where the values use little of the range."""
    if extremes[0] == extremes[1]:
        return []  # no range would show more
    used = _share(extremes, span)
    if used < NARROW:
        return [Note("narrow", f"values {_used(extremes, used, span)}; add {_typed(extremes)}")]
    if finite.size >= 1000:  # of fewer, percentiles are a matter of single values
        some = finite.reshape(-1)[:: max(1, finite.size // _ENOUGH)]
        most_low, most_high = (float(each) for each in np.percentile(some, PERCENTS))
        if finite.dtype.kind in "iu":
            most_low, most_high = math.floor(most_low), math.ceil(most_high)
        most = most_low, most_high
        used = _share(most, span)
        if used < NARROW_MOST:
            text = f"99 % of the values, {_used(most, used, span)}; add {_typed(most)}"
            return [Note("narrow", text)]
    return []


def _share(values: Span, span: Span) -> float:
    low, high = (min(max(value, span[0]), span[1]) for value in values)
    return (high - low) / (span[1] - span[0])


def _used(values: Span, share: float, span: Span) -> str:
    low, high, black, white = (number(value) for value in (*values, *span))
    percent = f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
    return f"{low} … {high} use {percent} of {black} … {white}"


def _typed(values: Span) -> str:
    low, high = (number(value) for value in values)
    fixed = "" if low == high else f"--range {low}:{high} or "
    return f"{fixed}--range percentile"


def to_8_bit(values: NDArray[Any], span: Span, *, white_is_zero: bool = False) -> NDArray[np.uint8]:
    """Values as 0…255 by a span: round((v − low) / (high − low) · 255), clipped; NaN is 0.

    Args:
        values: of any shape with rows in front.
        span: the values that are 0 and 255.
        white_is_zero: whether it is the other way round.
    """
    low, high = span
    result = np.empty(values.shape, dtype=np.uint8)
    step = max(1, _ROWS // max(1, int(np.prod(values.shape[1:]))))
    for row in range(0, len(values), step):
        part = values[row : row + step].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.clip((part - low) / (high - low) * 255, 0, 255)
        if white_is_zero:
            scaled = 255 - scaled
        result[row : row + step] = np.rint(np.nan_to_num(scaled, nan=0.0))
    return result
