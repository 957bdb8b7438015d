"""Parses `--range`: which values of a picture become black and white.

This file has no heavy imports, so that a usage error shows at once. `io.values` applies ranges.
"""

import math
from dataclasses import dataclass
from typing import Literal

from attnviz.errors import UsageError

FULL, PERCENTILE = "full", "percentile"
PERCENTS = (0.5, 99.5)
"""The percentiles of `percentile`: 99 % of the values keep their contrast.

Dead and hot pixels, burned-in letters and glints are less than 1 % of the values, but would take
most of the range. What a person looks for is rarely so small.
"""


@dataclass(frozen=True)
class ValueRange:
    """A choice of range: the range of the file's type, percentiles, or from `low` to `high`."""

    kind: Literal["full", "percentile", "fixed"]
    low: float = 0.0
    high: float = 1.0


def parse_range(text: str) -> ValueRange:
    """Parse `full`, `percentile` or `LO:HI`.

    >>> parse_range("-1000:400")
    ValueRange(kind='fixed', low=-1000.0, high=400.0)

    Raises:
        UsageError: anything else.
    """
    if text in (FULL, PERCENTILE):
        return ValueRange(text)  # type: ignore[arg-type]  # narrowed by the line above
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = math.nan
    if not math.isfinite(high - low):
        raise UsageError(
            f"--range {text!r}: choose full, percentile or two numbers, such as --range 0:4095"
        )
    if low == high:
        raise UsageError(
            f"--range {text}: black and white are one value; give two numbers, such as "
            f"--range {number(low)}:{number(high + 1)}"
        )
    if low > high:
        raise UsageError(
            f"--range {text}: the smaller number comes first; type --range "
            f"{number(high)}:{number(low)}"
        )
    return ValueRange("fixed", low, high)


def number(value: float) -> str:
    """A number as text to type: whole numbers in full, others to six digits.

    >>> number(65535.0), number(-0.123456789)
    ('65535', '-0.123457')
    """
    whole = value == round(value) and abs(value) < 1e15
    return str(int(value)) if whole else f"{value:.6g}"
