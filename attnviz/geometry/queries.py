"""Queries (where we look from): reads them, and computes their weights over the query tokens.

This file has no heavy imports, so a typing error is reported at once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from attnviz.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from attnviz.geometry.detections import DetectedObject
    from attnviz.geometry.grid import Layout
    from attnviz.geometry.placement import Placement
    from attnviz.geometry.sound_axes import SoundAxes

Kind = Literal[
    "auto", "cls", "register", "mean", "pool", "all", "point", "box", "mask", "object", "objects",
    "words", "word", "prompt_word", "token",
]  # fmt: skip
OF_TEXT: tuple[Kind, ...] = ("words", "word", "prompt_word", "token")
"""Kinds of queries that are places in a text."""
WORDS: tuple[Kind, ...] = ("auto", "cls", "mean", "pool", "objects", "words")
"""Queries that are typed as their kind."""
NAMED: tuple[Kind, ...] = ("object",)
"""Kinds of queries that are typed with a colon and a name or a number: `object:cat`."""
_REGISTER = re.compile(r"register(\d{1,6})")
_NUMBER = r"\s*-?\d+(?:\.\d*)?\s*"
_NUMBERS = re.compile(rf"({_NUMBER}(?:,{_NUMBER})+)(?:@\s*(\d+(?:\.\d*)?)\s*)?")
_PLACE = rf"{_NUMBER}s\s*,{_NUMBER}(?:Hz|hz|HZ)\s*"
_IN_SOUND = re.compile(rf"{_PLACE}(?:,{_PLACE})?")
_WORD = re.compile(r"(word|prompt):([^#]*[^#\s][^#]*)(?:#([1-9]\d{0,5}))?")
_TOKEN = re.compile(r"token:(\d{1,7})")
_EXPECTED = (
    "auto, cls, registerN, mean, pool, X,Y, X0,Y0,X1,Y1, in a clip X,Y@T, in a sound 1.2s,800Hz, "
    "with a prompt words, word:cat, prompt:cat or token:17, of a detector objects, object:N or "
    "object:LABEL, or a mask picture"
)


@dataclass(frozen=True)
class Query:
    """A query as the user gave it.

    `numbers` are picture pixels, or the number of a register or an object query; `path` is the
    path of a mask picture; `name` is the label of objects, and `found` the object of a resolved
    query; `time` is the second of a clip that a point or box lies in, None for all of it. The kind
    `all` is for methods that look from every token alike; users cannot type it. `in_sound` has the
    numbers of a place in a sound as they were typed: seconds, hertz, and so on. A word has a
    `name`, and as its number which of the words of this name it is, from 1; once it is found,
    `index` is its number among the words of its text, and `tokens` are the tokens whose rows are
    its map.
    """

    kind: Kind
    numbers: tuple[float, ...] = ()
    path: str | None = None
    time: float | None = None
    in_sound: tuple[float, ...] = ()
    name: str | None = None
    found: DetectedObject | None = None
    index: int | None = None
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        """The query as a user types it."""
        if self.in_sound:
            units = zip(self.in_sound, ("s", "Hz", "s", "Hz"), strict=False)
            return ",".join(f"{number:g}{unit}" for number, unit in units)
        if self.kind == "register":
            return f"register{self.numbers[0]:g}"
        if self.kind == "token":
            return f"token:{self.numbers[0]:g}"
        if self.kind in ("word", "prompt_word"):
            nth = "" if self.numbers == (1.0,) else f"#{self.numbers[0]:g}"
            return f"{self.kind.removesuffix('_word')}:{self.name}{nth}"
        if self.kind in NAMED:
            return f"{self.kind}:{self.name or format(self.numbers[0], 'g')}"
        numbers = ",".join(f"{n:g}" for n in self.numbers)
        when = "" if self.time is None else f"@{self.time:g}"
        return self.path or (numbers and numbers + when) or self.kind


def parse(text: str, *, option: str = "--query ") -> Query:
    """Read a query: a word, `registerN`, `X,Y`, `X0,Y0,X1,Y1` or the path of a mask picture.

    Behind a point or a box may stand the second of a clip: `X,Y@T`. With a prompt it is `words`,
    `word:NAME`, `word:NAME#2` for the second of this name, `prompt:NAME` or `token:N`. A place in a
    sound is `1.2s,800Hz` or `0.5s,100Hz,1s,800Hz`; `located` finds it in the picture. `object:3` is
    an object query of a detector or segmenter by its number, `object:cat` the objects of a label.
    `option` is the text before the query in an error message.

    >>> parse("120,80").kind, parse("120,80").numbers
    ('point', (120.0, 80.0))
    >>> parse("120,80@1.5").time, parse("object:cat").name
    (1.5, 'cat')

    Raises:
        UsageError: the text cannot be read, has neither two nor four numbers, or is an empty box.
    """
    named = _named(text, option)
    if named is not None:
        return named
    if _IN_SOUND.fullmatch(text):
        typed = tuple(float(number) for number in re.findall(_NUMBER, text))
        if len(typed) == 4 and (typed[2] <= typed[0] or typed[3] <= typed[1]):
            raise UsageError(
                f"{option}{text!r} is an empty box; give the earlier and lower corner first, such "
                "as 0.5s,100Hz,1s,800Hz"
            )
        return Query("point" if len(typed) == 2 else "box", in_sound=typed)
    match = _NUMBERS.fullmatch(text)
    if match is None:
        if not re.search(r"[./\\]", text):
            raise UsageError(f"{option}{text!r} cannot be read; give {_EXPECTED}")
        return Query("mask", path=text)
    numbers = tuple(float(number) for number in match[1].split(","))
    time = None if match[2] is None else float(match[2])
    if len(numbers) == 2:
        return Query("point", numbers, time=time)
    if len(numbers) != 4:
        raise UsageError(f"{option}{text!r} has {len(numbers)} numbers; give {_EXPECTED}")
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        raise UsageError(f"{option}{text!r} is an empty box; give X0,Y0,X1,Y1 with X0<X1, Y0<Y1")
    return Query("box", numbers, time=time)


def _named(text: str, option: str) -> Query | None:
    """A query that is a word, or a kind with a number or a name; None for other queries."""
    if text in WORDS:
        return Query(text)
    for pattern, numbered in ((_REGISTER, "register"), (_TOKEN, "token")):
        if (number := pattern.fullmatch(text)) is not None:
            return Query(cast("Kind", numbered), (float(number[1]),))
    if (word := _WORD.fullmatch(text)) is not None:
        of: Kind = "word" if word[1] == "word" else "prompt_word"
        return Query(of, (float(word[3] or 1),), name=word[2].strip())
    kind, _, name = text.partition(":")
    if kind == text or kind not in NAMED:
        return None
    name = name.strip()
    if not name:
        raise UsageError(f"{option}{text!r} names nothing; give {kind}:3 or {kind}:cat")
    if re.fullmatch(r"\d{1,9}", name):
        return Query(kind, (float(name),))
    return Query(kind, name=name)


def located(query: Query, axes: SoundAxes | None, width: int, name: str) -> Query:
    """A query with the picture pixels of its place in a sound; other queries do not change.

    A frequency below the lowest row, or above the highest one, is in that row.

    Args:
        query: what `parse` returned.
        axes: seconds and hertz of the picture; None if it is no spectrogram.
        width: width of the picture in pixels.
        name: name of the picture, for errors.

    Raises:
        UsageError: the picture is no spectrogram, or the place lies outside it.
    """
    if not query.in_sound:
        return query
    if axes is None:
        raise UsageError(f"--query {query} is a place in a sound, and {name} a picture; give X,Y")
    end = axes.time(width)
    seconds, hertz = query.in_sound[::2], query.in_sound[1::2]
    if min(seconds) < 0 or min(hertz) < 0 or seconds[0] > max(end, min(axes.duration, end * 1.05)):
        low, high = axes.span
        raise UsageError(
            f"--query {query} lies outside of {name}, which is seen from 0 to {end:.4g} s and from "
            f"{low:.0f} to {high:.0f} Hz"
        )
    x = [min(max(axes.x(time), 0.0), width - 1e-6) for time in seconds]
    y = [min(max(axes.y(each), 0.0), axes.height - 1e-6) for each in hertz]
    numbers = (x[0], y[0]) if len(x) == 1 else (x[0], y[1], x[1], y[0])
    return replace(query, numbers=numbers)


def resolve(
    query: Query,
    *,
    has_class_token: bool,
    registers: int = 0,
    on_picture: bool = True,
    layer: int | None = None,
) -> Query:
    """Replace `auto` by `cls` if there is a class token, else by `mean`, or `pool` in a pool layer.

    Args:
        query: the query as the user gave it.
        has_class_token: whether a class token is among the queries.
        registers: number of registers; they come after the class token and before the grid.
        on_picture: whether any query lies on the picture; an attention pool's queries do not.
        layer: number of the layer with these queries; None for all layers of a model.

    Raises:
        UsageError: the layer has no such queries.
    """
    if query.kind == "auto":
        return Query("cls" if has_class_token else "mean" if on_picture else "pool")
    if query.kind == "cls" and not has_class_token:
        if layer is None:
            raise UsageError("--query cls: this model has no class token; take --query mean")
        raise _not_there(query, layer, "has no class token among its queries")
    if query.kind == "register" and query.numbers[0] >= registers:
        raise _not_there(query, layer, f"has {_registers(registers)} among its queries")
    if query.kind == "pool" and on_picture:
        raise _not_there(query, layer, "is no attention pool: its queries lie on the picture")
    if query.kind in ("mean", "point", "box", "mask") and not on_picture:
        raise _not_there(query, layer, "has no query on the picture")
    return query


def _registers(count: int) -> str:
    """The number of registers in words."""
    return {0: "no register", 1: "one register, register0,"}.get(
        count, f"{count} registers, register0 to register{count - 1},"
    )


def _not_there(query: Query, layer: int | None, reason: str) -> UsageError:
    where = "this model" if layer is None else f"layer {layer}"
    return UsageError(f"--query {query}: {where} {reason}; take --query auto, or other --layers")


def token_weights(
    query: Query,
    layout: Layout,
    placement: Placement | None,
    taking_part: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None = None,
    *,
    prefix: Sequence[int] = (0,),
    has_class_token: bool = False,
    view: int | None = None,
) -> NDArray[np.float64]:
    """Weights over the query tokens of a layer, (windows, tokens), that sum to 1.

    `cls` is the class token and `registerN` this register, in every window. `pool` and `all` weight
    all tokens alike. For other kinds, a token has the weight of its cell (`weights`), and tokens of
    the same cell share it. `placement` is on the layout's cells. `taking_part` is (windows,
    tokens); tokens that do not take part have weight 0. `prefix` are the numbers of class token and
    registers. `view` is the only view of a clip with weight; None gives all of them weight.

    Raises:
        UsageError: no token that takes part lies where the query points.
    """
    result: NDArray[np.float64] = taking_part.astype("float64")
    if query.kind in OF_TEXT:
        result[:] = 0
        result[0, list(query.tokens)] = 1 / len(query.tokens)
        return result
    if query.kind in ("pool", "all"):
        result /= result.sum()
        return result
    if query.kind in ("cls", "register"):
        number = 0 if query.kind == "cls" else int(query.numbers[0]) + has_class_token
        result[:] = 0
        result[:, prefix[number]] = 1 / len(result)
        return result
    assert placement is not None  # `resolve` checks that queries lie on the picture
    of_cells = weights(query, placement, layout.count(taking_part) > 0, mask, view=view)
    return layout.shared_out(of_cells, taking_part)


def weights(
    query: Query,
    placement: Placement,
    taking_part: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None = None,
    *,
    view: int | None = None,
) -> NDArray[np.float64]:
    """Weights over the cells of a grid, (views·rows·columns,), that sum to 1.

    A point selects one cell, `mean` weights all alike. A box or a mask weights every cell by the
    share of its area that the region covers. The map is then an average over the region's pixels:
    each pixel gives the row of the token that it lies in. Cells that are not `taking_part`,
    (views·rows·columns,), have weight 0, and so have all views but `view`, if it is given.

    Raises:
        UsageError: no token that takes part lies where the query points.
    """
    result = taking_part.astype("float64") * 0
    grid = result.reshape(-1, placement.grid.rows, placement.grid.columns)
    grid = grid if view is None else grid[view : view + 1]
    if query.kind == "mean":
        grid[:] = 1.0
    elif query.kind == "point":
        row, column = _token(query, placement)
        grid[:, row, column] = 1.0
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
    # A whole number names a pixel; the pixel's centre counts.
    token = placement.token_at(math.floor(x) + 0.5, math.floor(y) + 0.5)
    if token is None:
        raise UsageError(f"--query {query} was cropped off; take --fit keep or pad")
    return token
