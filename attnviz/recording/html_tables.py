"""HTML tables for notebooks: one for any values, one for attention calls."""

import math
from collections.abc import Mapping, Sequence
from html import escape

import torch

from attnviz.attention.call import AttentionCall

Value = str | float | None


def table(caption: str, headings: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
    """A table as HTML; numbers have four digits, missing values are dashes.

    >>> table("heads", ["layer", "entropy"], [[5, 4.71168]])  # doctest: +ELLIPSIS
    '<table><caption ...>heads</caption><thead><tr>...<td ...>5</td><td ...>4.712</td>...'
    """
    head = "".join(f'<th style="text-align:right">{escape(each)}</th>' for each in headings)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:right">{escape(_cell_text(one))}</td>' for one in row)
        + "</tr>"
        for row in rows
    )
    return (
        f'<table><caption style="text-align:left">{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell_text(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_HEADINGS = (
    "batch", "heads", "queries × keys", "features", "scale", "bias", "type", "error of A·V",
)  # fmt: skip


def call_table(
    caption: str,
    what: str,
    calls: Mapping[int, AttentionCall | None],
    errors: Mapping[int, float | None],
) -> str:
    """An HTML table with a row per call; `errors`: how far A·V is from the model's output."""
    rows = [[str(number), *_row(call, errors.get(number))] for number, call in calls.items()]
    return table(caption, [what, *_HEADINGS], rows)


def _row(call: AttentionCall | None, error: float | None) -> list[Value]:
    if call is None:
        return ["not kept", *[None] * (len(_HEADINGS) - 1)]
    batch, heads, queries, keys = call.shape
    groups = call.key.shape[1]
    return [
        str(batch),
        str(heads) if groups == heads else f"{heads} ({groups} of keys)",
        f"{queries} × {keys}",
        str(call.query.shape[3]),
        float(call.scale),
        _bias(call),
        str(call.query.dtype).removeprefix("torch."),
        None if error is None else f"{error:.1e}",
    ]


def _bias(call: AttentionCall) -> str | None:
    """The kinds of bias and mask of a call, in words; None if it has none."""
    kinds = ["causal"] if call.causal else []
    if call.bias is not None:
        kinds.append("mask" if call.bias.dtype == torch.bool else "bias")
    return ", ".join(kinds) or None
