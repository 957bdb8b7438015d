"""Where we look from: a query in words, and its weights over the query tokens.

Free of heavy imports, so that a slip of the pen is answered at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attnviz.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from attnviz.geometry import Placement

Kind = Literal["auto", "cls", "mean", "point", "box", "mask"]
_NUMBER = r"\s*-?\d+(?:\.\d*)?\s*"
_NUMBERS = re.compile(rf"{_NUMBER}(?:,{_NUMBER})+")
_EXPECTED = "auto, cls, mean, X,Y, X0,Y0,X1,Y1 or a mask picture"


@dataclass(frozen=True)
class Query:
    """A question as it was asked; `numbers` are picture pixels, `path` is a mask picture's."""

    kind: Kind
    numbers: tuple[float, ...] = ()
    path: str | None = None

    def __str__(self) -> str:
        """As it would be typed."""
        return self.path or ",".join(f"{n:g}" for n in self.numbers) or self.kind


def parse(text: str) -> Query:
    """Read a query: `auto`, `cls`, `mean`, `X,Y`, `X0,Y0,X1,Y1` or the path of a mask picture.

    >>> parse("120,80")
    Query(kind='point', numbers=(120.0, 80.0), path=None)

    Raises:
        UsageError: two or four numbers were meant and are not there, or a box is empty.
    """
    if text in ("auto", "cls", "mean"):
        return Query(text)  # type: ignore[arg-type]  # narrowed by the line above
    if not _NUMBERS.fullmatch(text):
        if not re.search(r"[./\\]", text):
            raise UsageError(f"--query {text!r} cannot be read; give {_EXPECTED}")
        return Query("mask", path=text)
    numbers = tuple(float(number) for number in text.split(","))
    if len(numbers) == 2:
        return Query("point", numbers)
    if len(numbers) != 4:
        raise UsageError(f"--query {text!r} has {len(numbers)} numbers; give {_EXPECTED}")
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        raise UsageError(f"--query {text!r} is an empty box; give X0,Y0,X1,Y1 with X0<X1, Y0<Y1")
    return Query("box", numbers)


def resolve(query: Query, *, has_class_token: bool) -> Query:
    """`auto` made definite: the class token where there is one, else the mean.

    Raises:
        UsageError: `cls` asked of a model without a class token.
    """
    if query.kind == "auto":
        return Query("cls" if has_class_token else "mean")
    if query.kind == "cls" and not has_class_token:
        raise UsageError("--query cls: this model has no class token; take --query mean")
    return query


def weights(
    query: Query,
    placement: Placement,
    taking_part: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Weights over all query tokens, (prefix + rows·columns,), that sum to 1.

    `cls` and a point take one token, `mean` all grid tokens alike; a box or a mask takes every
    token by the share of its area that the region covers, so that the map is the average over
    the region's pixels of the row of the token that each lies in. Tokens that are not
    `taking_part`, (prefix + rows·columns,), have weight 0.

    Raises:
        UsageError: nothing that takes part lies where the query points.
    """
    prefix = placement.grid.prefix
    result = taking_part.astype("float64") * 0
    if query.kind == "cls":
        result[0] = 1.0
        return result
    grid = result[prefix:].reshape(placement.grid.rows, placement.grid.columns)
    if query.kind == "mean":
        grid[:] = 1.0
    elif query.kind == "point":
        grid[_token(query, placement)] = 1.0
    elif query.kind == "box":
        grid[:] = placement.coverage(*query.numbers)
    elif mask is not None:
        grid[:] = placement.average(mask)
    result *= taking_part
    total = float(result.sum())
    if total == 0:
        raise UsageError(f"--query {query}: no token that takes part lies there; point elsewhere")
    result /= total
    return result


def _token(query: Query, placement: Placement) -> tuple[int, int]:
    x, y = query.numbers
    width, height = placement.picture_width, placement.picture_height
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(f"--query {query} lies outside the picture, which is {width}x{height}")
    # A whole number names a pixel: its centre decides.
    token = placement.token_at(math.floor(x) + 0.5, math.floor(y) + 0.5)
    if token is None:
        raise UsageError(f"--query {query} lies in the part that was cropped; take --fit keep")
    return token
