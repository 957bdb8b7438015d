"""How notebooks show attention calls: a table, since they know no picture."""

from collections.abc import Mapping

import torch

from attnviz import markup
from attnviz.attention.call import AttentionCall

_HEADINGS = (
    "batch", "heads", "queries × keys", "features", "scale", "bias", "type", "error of A·V",
)  # fmt: skip


def call_table(
    caption: str,
    what: str,
    calls: Mapping[int, AttentionCall | None],
    errors: Mapping[int, float | None],
) -> str:
    """A row for each call by its number, with how far A·V is from the model's output, as HTML."""
    rows = [[str(number), *_row(call, errors.get(number))] for number, call in calls.items()]
    return markup.table(caption, [what, *_HEADINGS], rows)


def _row(call: AttentionCall | None, error: float | None) -> list[markup.Value]:
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
    """What is added to the scores, or leaves some out."""
    said = ["causal"] if call.causal else []
    if call.bias is not None:
        said.append("mask" if call.bias.dtype == torch.bool else "bias")
    return ", ".join(said) or None
