"""Position rules for operators that write into a part of a tensor or of its copy."""

from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, by_names
from attnviz.recording.positions.position_math import NOWHERE
from attnviz.recording.positions.position_registry import PositionRegistry
from attnviz.recording.positions.position_rule import lies_nowhere, or_nowhere


def _written(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`copy_`: the target takes the positions of its source."""
    return registry.within(or_nowhere(registry, op.args[1] if len(op.args) > 1 else None, result))


def _indices_filled(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`index_put`: positions are written to the same indices."""
    if op.get(3, "accumulate", False):
        return None
    base = or_nowhere(registry, op.args[0], op.args[0]).clone()
    values = op.args[2]
    return torch.ops.aten.index_put(base, op.args[1], or_nowhere(registry, values, values))


def _scattered(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`scatter` of values or of a number: positions are written to the same indices."""
    dim, index, source = op.args[1:4]
    if op.kwargs or len(op.args) > 4:
        return None
    base = or_nowhere(registry, op.args[0], op.args[0]).clone()
    nowhere = torch.full((), NOWHERE, device=base.device).expand(index.shape)
    positions = or_nowhere(registry, source, source) if isinstance(source, Tensor) else nowhere
    return torch.scatter(base, dim, index, positions.contiguous())


def _masked_filled(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`masked_scatter` takes the elements of its source in order."""
    base, mask, source = op.args
    positions = or_nowhere(registry, source, source).contiguous()
    return or_nowhere(registry, base, base).clone().masked_scatter(mask, positions)


def _copied_to(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`index_copy`."""
    base, dim, index, source = op.args
    positions = or_nowhere(registry, source, source).contiguous()
    return or_nowhere(registry, base, base).clone().index_copy(dim, index, positions)


def _slice_written(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`slice_scatter` and `select_scatter`, which return a new tensor."""
    base, source = op.args[:2]
    target = or_nowhere(registry, base, base).clone()
    return op.func(
        target, or_nowhere(registry, source, source).contiguous(), *op.args[2:], **op.kwargs
    )


def _merged(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`scatter_reduce`, `scatter_add` and `index_add`: combined elements lie in between."""
    if not op.kwargs.get("include_self", True):
        return None
    dim, index, source = op.args[1:4]
    add = torch.index_add if op.name.startswith("index_add") else torch.scatter_add
    planes = []
    for tensor in (op.args[0], source):
        positions = or_nowhere(registry, tensor, tensor)
        finite = positions.real.isfinite()
        parts = (positions.real, positions.imag, finite.float())
        planes.append([torch.where(finite, part, 0.0).contiguous() for part in parts])
    x, y, count = (add(base, dim, index, more) for base, more in zip(*planes, strict=True))
    return torch.complex(x / count, y / count)


RULES = by_names(
    {
        "copy_": _written,
        "fill_ zero_ normal_ uniform_ bernoulli_ random_ exponential_": lies_nowhere,
        "index_put index_put_ _index_put_impl_": _indices_filled,
        "scatter scatter_": _scattered,
        "masked_scatter masked_scatter_": _masked_filled,
        "index_copy index_copy_": _copied_to,
        "slice_scatter select_scatter diagonal_scatter": _slice_written,
        "scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_": _merged,
    }
)
"""Rules by operator name."""
