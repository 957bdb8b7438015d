"""Joins calls that are pieces of one attention: pieces of its queries, its heads, or its items.

A model may compute its queries in pieces to save memory, or its heads or windows one after the
other. If it then puts their outputs side by side (or, for heads that have a projection each, sums
them), the pieces become one call with the same numbers as a call that was never split.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from attnviz.attention.call import AttentionCall

Axis = Literal["queries", "heads", "items", "stacked", "sum"]
"""The axis along which outputs are put side by side. `stacked` is a new dimension, of heads or
items; `sum` means that the outputs are added, each after its own projection."""
_DIMS = {"items": 0, "heads": 1, "queries": 2}


def join_calls(calls: Sequence[AttentionCall], axis: Axis) -> tuple[AttentionCall, int] | None:
    """Join calls whose outputs are put side by side; returns the call and the joined dimension.

    None if they are not pieces of one call.
    """
    first = calls[0]
    if any(call.mixing is not None or call.causal != first.causal for call in calls):
        return None
    if any(call.output is None for call in calls):
        return None
    if axis == "stacked":
        axis = "heads" if _same_places(calls) else "items"
    join = {"queries": _queries, "heads": _heads, "items": _items}[axis]
    found = join(calls)
    return None if found is None else (found, _DIMS[axis])


def join_summed(calls: Sequence[AttentionCall]) -> tuple[AttentionCall, int] | None:
    """Join calls whose projected outputs are summed: Σ_h A_h·V_h·W_h, as in any attention."""
    if any(call.projection is None for call in calls):
        return None
    projections = [call.projection for call in calls if call.projection is not None]
    if len({tuple(p.shape[1:]) for p in projections}) > 1:
        return None
    found = join_calls(calls, "heads")
    if found is None:
        return None
    call, dim = found
    return replace(call, projection=torch.cat(projections)), dim


def _same_places(calls: Sequence[AttentionCall]) -> bool:
    """Whether all calls have the same query positions and the same key positions."""
    return _equal([c.query_positions for c in calls]) and _equal([c.key_positions for c in calls])


def _equal(tensors: Sequence[Tensor | None]) -> bool:
    """Whether all tensors hold the same values, or all are None."""
    first, *others = tensors
    if first is None or any(other is None for other in others):
        return all(tensor is None for tensor in tensors)
    return all(
        other is not None
        and first.shape == other.shape
        and torch.equal(first.nan_to_num(-1, -2), other.nan_to_num(-1, -2))
        for other in others
    )


def _queries(calls: Sequence[AttentionCall]) -> AttentionCall | None:
    """Join pieces of the queries that have the same keys."""
    first = calls[0]
    keys = [[getattr(call, name) for call in calls] for name in ("key", "value", "key_positions")]
    if first.causal or not all(map(_equal, keys)):
        return None
    queries = _scaled(calls)
    bias = _bias(calls, 2)
    if queries is None or bias is False:
        return None
    return replace(
        first,
        query=torch.cat(queries, 2),
        bias=bias,
        output=_outputs(calls, 2),
        query_positions=_positions(calls, lambda call: call.query_positions, 1),
        query_pictures=_beside([call.query_pictures for call in calls], 1),
    )


def _heads(calls: Sequence[AttentionCall]) -> AttentionCall | None:
    """Join heads that were computed one after the other or in groups."""
    first = calls[0]
    groups = {call.heads // call.key.shape[1] for call in calls}
    queries, bias = _scaled(calls), _bias(calls, 1)
    if not _same_places(calls) or len(groups) > 1 or queries is None or bias is False:
        return None
    parts = [queries, [call.key for call in calls], [call.value for call in calls]]
    parts.append([call.output for call in calls if call.output is not None])
    if any(not _fit(part, 1) for part in parts):
        return None
    query, key, value, output = (torch.cat(part, 1) for part in parts)
    return replace(first, query=query, key=key, value=value, bias=bias, output=output)


def _items(calls: Sequence[AttentionCall]) -> AttentionCall | None:
    """Join windows or pictures that were computed one after the other."""
    first = calls[0]
    queries, bias = _scaled(calls), _bias(calls, 0)
    parts = [queries, [call.key for call in calls], [call.value for call in calls]]
    parts.append([call.output for call in calls if call.output is not None])
    if bias is False or any(part is None or not _fit(part, 0) for part in parts):
        return None
    query, key, value, output = (torch.cat(part, 0) for part in parts if part is not None)
    return replace(
        first,
        query=query,
        key=key,
        value=value,
        bias=bias,
        output=output,
        query_positions=_positions(calls, lambda call: call.query_positions, 0),
        key_positions=_positions(calls, lambda call: call.key_positions, 0),
        query_pictures=_beside([call.query_pictures for call in calls], 0),
        key_pictures=_beside([call.key_pictures for call in calls], 0),
        points=_beside([call.points for call in calls], 0),
    )


def _beside(parts: Sequence[Tensor | None], dim: int) -> Tensor | None:
    """Facts about tokens of all calls side by side; None if some call has none, or has others."""
    found = [part for part in parts if part is not None]
    return torch.cat(found, dim) if len(found) == len(parts) and _fit(found, dim) else None


def _scaled(calls: Sequence[AttentionCall]) -> list[Tensor] | None:
    """Queries, rescaled so that all calls have the first call's scale; None if impossible."""
    scale = calls[0].scale
    if scale == 0:
        return None
    return [c.query if c.scale == scale else c.query * (c.scale / scale) for c in calls]


def _fit(tensors: Sequence[Tensor], dim: int) -> bool:
    """Whether tensors can be put side by side along a dimension."""
    shapes = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    return len(shapes) == 1


def _bias(calls: Sequence[AttentionCall], dim: int) -> Tensor | Literal[False] | None:
    """The joined bias; None if no call has one, False if the biases cannot be joined."""
    found = [call.bias for call in calls]
    if all(bias is None for bias in found):
        return None
    kinds = {bias.dtype for bias in found if bias is not None}
    if len(kinds) > 1:
        return False
    kind = kinds.pop()
    nothing = torch.ones((), dtype=kind) if kind == torch.bool else torch.zeros((), dtype=kind)
    full = [
        _four(nothing.to(call.query.device) if bias is None else bias)
        for call, bias in zip(calls, found, strict=True)
    ]
    if all(bias.shape[dim] == 1 for bias in full) and _equal(full):
        return full[0]
    sizes = [max(of_dim) for of_dim in zip(*(bias.shape for bias in full), strict=True)]
    parts = []
    for call, bias in zip(calls, full, strict=True):
        sizes[dim] = call.shape[dim]
        parts.append(bias.expand(sizes))
    return torch.cat(parts, dim)


def _four(bias: Tensor) -> Tensor:
    return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))


def _outputs(calls: Sequence[AttentionCall], dim: int) -> Tensor:
    return torch.cat([call.output for call in calls if call.output is not None], dim)


def _positions(
    calls: Sequence[AttentionCall], of: Callable[[AttentionCall], Tensor | None], dim: int
) -> Tensor | None:
    """Positions of the tokens of all calls; NaN for calls whose positions are unknown."""
    found = [of(call) for call in calls]
    if all(positions is None for positions in found):
        return None
    shape = next(positions.shape for positions in found if positions is not None)
    device = calls[0].query.device
    parts = []
    for call, positions in zip(calls, found, strict=True):
        count = call.shape[2] if dim else shape[1]
        nowhere = torch.full((call.shape[0], count, 2), torch.nan, device=device)
        parts.append(nowhere if positions is None else positions)
    return torch.cat(parts, dim)
