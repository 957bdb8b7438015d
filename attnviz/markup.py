"""HTML of strings and numbers, as notebooks show it; everything in it is escaped."""

import math
from collections.abc import Sequence
from html import escape

Value = str | float | None


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table; numbers to four digits, what is not there as a dash.

    >>> table("heads", ["layer", "entropy"], [[5, 4.71168]])  # doctest: +ELLIPSIS
    '<table><caption ...>heads</caption><thead><tr>...<td ...>5</td><td ...>4.712</td>...'
    """
    head = "".join(f'<th style="text-align:right">{escape(each)}</th>' for each in headings)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:right">{escape(_said(one))}</td>' for one in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _said(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
