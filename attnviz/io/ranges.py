"""Which values of a picture span black to white, as `--range` names them.

Free of heavy imports, so that a slip of the pen is answered at once; `io.values` applies them.
"""

import math
from dataclasses import dataclass
from typing import Literal

from attnviz.errors import UsageError

FULL, PERCENTILE = "full", "percentile"
PERCENTS = (0.5, 99.5)
"""The percentiles of `percentile`: 99 % of the values keep their contrast.

Dead and hot pixels, burned-in letters and glints are less than 1 %, and would take most of the
range; what a person looks for is rarely as small.
"""


@dataclass(frozen=True)
class ValueRange:
    """A choice of range: of the file's type, by percentiles, or from `low` to `high`."""

    kind: Literal["full", "percentile", "fixed"]
    low: float = 0.0
    high: float = 1.0


def parse_range(text: str) -> ValueRange:
    """Read `full`, `percentile` or `LO:HI`.

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
    """A number as it is typed: whole ones in full, others to six digits.

    >>> number(65535.0), number(-0.123456789)
    ('65535', '-0.123457')
    """
    whole = value == round(value) and abs(value) < 1e15
    return str(int(value)) if whole else f"{value:.6g}"
