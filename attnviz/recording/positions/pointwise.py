"""Position rules for pointwise operators: sums, gates, choices between two operands."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, by_names, first
from attnviz.recording.positions.position_math import (
    average,
    compact,
    same_memory,
    varying,
)
from attnviz.recording.positions.position_registry import PositionRegistry, or_nowhere


def pointwise(registry: PositionRegistry, op: Operation, result: Any) -> Tensor | None:
    """The result has its operands' positions, or their mean if these differ.

    An operand that is the same for all places (a gate, a mean) does not count; neither do masks and
    whole numbers beside floating-point operands.
    """
    result = first(result)
    if not isinstance(result, Tensor):
        return None
    operands = [each for each in op.flat if isinstance(each, Tensor)]
    content = [each for each in operands if each.is_floating_point() or each.is_complex()]
    found = combined(registry, op, content, result)
    return combined(registry, op, operands, result) if found is None else found


def combined(
    registry: PositionRegistry, op: Operation, operands: Sequence[Tensor], result: Tensor
) -> Tensor | None:
    """Positions of the result of broadcast operands; None if none comes from the picture."""
    placed: list[tuple[Tensor, Tensor]] = []
    lost: list[tuple[Tensor, Tensor]] = []
    for operand in operands:
        positions = registry.get(operand)
        if positions is not None and operand.ndim <= result.ndim:
            (lost if registry.is_lost(positions) else placed).append((operand, positions))
    if len(placed) == 1 and not lost:
        return expanded(placed[0][1], result)
    differ = frozenset[int]().union(*(varying(positions) for _, positions in placed))
    for operand, positions in lost:
        varied = {d for d in range(-operand.ndim, 0) if operand.shape[d] > 1}
        if not placed or differ & varied:
            return expanded(positions, result)
    most = placed
    if any(varying(p) < varying(other) for _, p in placed for _, other in placed):
        placed = [(operand, registry.narrowed(p)) for operand, p in placed]
        # Skip an operand that varies along fewer dimensions: it is the same for many places.
        most = [
            (operand, p)
            for operand, p in placed
            if not any(varying(p) < varying(other) for _, other in placed)
        ]
    if not most:
        return None
    rows = _rows_of_pairs([positions for _, positions in most])
    if rows is not None:
        return expanded(rows, result)
    found = most[0][1]
    for operand, other in most[1:]:
        found = _between(registry, found, other, lambda: _shares(registry, op, most[0][0], operand))  # noqa: B023
    return expanded(found, result)


def _rows_of_pairs(parts: Sequence[Tensor]) -> Tensor | None:
    """Of an operation on all pairs of two sets of tokens: positions of the rows, as for products.

    None if the operands are something else, such as a row and a column of one map.
    """
    if len(parts) != 2:
        return None
    one, other = (varying(positions) for positions in parts)
    if len(one - other) != 1 or len(other - one) != 1:
        return None
    rows = parts[0] if min(one - other) < min(other - one) else parts[1]
    (dim,) = one - other if rows is parts[0] else other - one
    moved = compact(rows).movedim(dim, -1).flatten(0, -2)[0]
    both = all(bool((part - part[:1]).abs().gt(1e-3).any()) for part in (moved.real, moved.imag))
    return rows if both else None


def _shares(
    registry: PositionRegistry, op: Operation, one: Tensor, other: Tensor
) -> tuple[float, float]:
    """The weights of two operands: their norms for a sum, equal weights for other operations."""
    if op.name.rstrip("_") not in ("add", "sub"):
        return 1.0, 1.0
    registry.on_read(one)
    registry.on_read(other)
    other = other * op.kwargs.get("alpha", 1)
    if any(one is written for written in op.written):  # `one` holds the sum already
        one = one - other if op.name.startswith("add") else one + other
    return float(one.detach().float().norm()), float(other.detach().float().norm())


def _between(
    registry: PositionRegistry,
    one: Tensor,
    other: Tensor,
    shares: Callable[[], tuple[float, float]],
) -> Tensor:
    """The mean of two operands' positions, weighted by `shares` where the positions differ."""
    if same_memory(one, other):
        return one if one.ndim >= other.ndim else other
    dims = max(one.ndim, other.ndim)
    small = [compact(p.reshape((1,) * (dims - p.ndim) + tuple(p.shape))) for p in (one, other)]
    first, second = _broadcast(small)
    if registry.are_equal(first, second):
        return one
    return average([first, second], shares())


def _broadcast(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors with the same number of dimensions, expanded to one shape."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    return [part.expand(shape) for part in parts]


def expanded(positions: Tensor, result: Tensor) -> Tensor | None:
    """Positions expanded to a result's shape; None if they do not broadcast to it."""
    if positions.ndim > result.ndim:
        return None
    try:
        return positions.expand(result.shape)
    except RuntimeError:
        return None


def _chosen(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`where`: every element comes from one of two operands."""
    condition, *two = op.args
    if len(two) != 2:
        return None
    if any(registry.get(each) is not None for each in two):
        registry.on_read(condition)
    positions = [or_nowhere(registry, each, result) for each in two]
    return torch.where(condition, *positions)


def _halves(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`glu`: one half gates the other."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    return average(positions.chunk(2, op.get(1, "dim", -1)), (1.0, 1.0)).expand(result.shape)


RULES = by_names(
    {
        "prelu _prelu_kernel rsub complex polar": pointwise,
        "where": _chosen,
        "glu": _halves,
    }
)
"""Rules by operator name; pointwise operators without a rule follow `pointwise`."""
