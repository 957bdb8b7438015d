"""What a decoder returns, and the conversion of samples of any type to 8 bits.

The conversion chooses black and white, and makes notes on it.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from attnviz.io.picture_files import Note
from attnviz.io.ranges import FULL, PERCENTS, ValueRange, number

NARROW = 1 / 5
"""A note is made if values use less than this share of the range."""
NARROW_MOST = 1 / 10
"""A note is also made if 99 % of the values use less than this, despite burned-in letters."""
_FITS = ((0.0, 255.0), (0.0, 65535.0))
"""Likely ranges of samples of 32 bits and more: they reach a fifth of it, and not beyond."""
_ENOUGH = 1_000_000
"""Number of values that are sampled to find how most of them are spread."""
_ROWS = 1 << 20
"""Number of values scaled at once: float64 takes eight times the memory of 8 bits."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of a file before they are converted to 8 bits.

    Attributes:
        values: (height, width, 1 or 3), of any type; NaN where there is no value.
        kind: number type of the file.
        bits: bits per sample in the file; the type of `values` may have more.
        largest: the value that the file declares as white; None if its bits define white.
        alpha: (height, width) uint8, 0 is transparent.
        white_is_zero: whether small values are bright.
        profile: ICC profile.
        orientation: EXIF's orientation number.
        bands: (height, width, N), all bands of the file but transparency; None for the drawn ones.
        window: the values that the file names as black and white.
    """

    values: NDArray[Any]
    kind: Literal["unsigned", "signed", "float"]
    bits: int
    largest: int | None = None
    alpha: NDArray[np.uint8] | None = None
    white_is_zero: bool = False
    profile: bytes | None = None
    orientation: int = 1
    bands: NDArray[Any] | None = None
    window: tuple[float, float] | None = None

    @property
    def ordinary(self) -> bool:
        """Whether samples are like those of ordinary pictures: unsigned, at most 8 bits."""
        return self.kind == "unsigned" and self.bits <= 8

    @property
    def span(self) -> tuple[float, float] | None:
        """The window, or the range of the type; None if neither says what samples stand for."""
        if self.window is not None:
            return self.window
        if self.kind == "float" or self.bits > 16:
            return None
        if self.kind == "signed":
            return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1
        return 0.0, float(self.largest or 2**self.bits - 1)


Span = tuple[float, float]


def take(samples: Samples, value_range: ValueRange) -> tuple[Span, list[Note]]:
    """The values that become black and white, and notes on them."""
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
        return span, notes  # a dark ordinary picture is just dark
    return span, notes + _narrow(finite, (low, high), span)


def _chosen(
    samples: Samples, value_range: ValueRange, finite: NDArray[Any], extremes: Span
) -> Span | None:
    """The chosen range; None if only the values themselves can define it."""
    if value_range.kind == "fixed":
        return value_range.low, value_range.high
    if value_range.kind == "percentile":
        low, high = (float(each) for each in np.percentile(finite, PERCENTS))
        # Percentiles miss a few values that differ from all others.
        return (low, high) if low < high else _widened(*extremes)
    return samples.span or _fitting(samples, extremes)


def _fitting(samples: Samples, extremes: Span) -> Span | None:
    """The likely range of floats and long integers, judged by their values."""
    low, high = extremes
    if samples.kind == "float" and low >= 0 and high <= 1:
        return 0.0, 1.0
    return next((fit for fit in _FITS if low >= 0 and NARROW * fit[1] <= high <= fit[1]), None)


def _widened(low: float, high: float) -> Span:
    """Widen an empty span, of a picture of one value, so that the value becomes grey."""
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
    """A note if the values use little of the range."""
    if extremes[0] == extremes[1]:
        return []  # no other range would show more
    used = _share(extremes, span)
    if used < NARROW:
        return [Note("narrow", f"values {_used(extremes, used, span)}; add {_typed(extremes)}")]
    if finite.size >= 1000:  # with fewer values, percentiles depend on single ones
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
    """Scale values to 0…255 by a span: round((v − low) / (high − low) · 255), clipped; NaN is 0.

    Args:
        values: array of any shape; the first axis is rows.
        span: the values that become 0 and 255.
        white_is_zero: whether the scale is reversed.
    """
    low, high = span
    if values.dtype == np.uint8 and span == (0, 255) and not white_is_zero:
        return values
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


@dataclass(frozen=True, eq=False)
class Opened:
    """A decoded picture: either an image of 8 bits per sample, or samples of any type.

    Attributes:
        image: Pillow image, the right way up.
        samples: samples with the values of the file.
        notes: notes on what was left out.
        cut: whether only the chosen region was read.
    """

    image: Image.Image | None = None
    samples: Samples | None = None
    notes: tuple[Note, ...] = ()
    cut: bool = False


def of_bands(count: int, drawn: int) -> tuple[Note, ...]:
    """A note for a picture of `count` bands of which only the first `drawn` are drawn."""
    if count <= drawn:
        return ()
    which = {1: "the first is drawn, in grey", 3: "the first three are drawn"}.get(
        drawn, f"the first {drawn} are drawn"
    )
    return (Note("bands", f"{count} bands: {which}"),)


def upright(image: Image.Image, orientation: int | None = None) -> Image.Image:
    """An image turned by its own EXIF orientation, or by the given one."""
    if orientation is not None:
        image.getexif()[0x0112] = orientation
    ImageOps.exif_transpose(image, in_place=True)
    return image
