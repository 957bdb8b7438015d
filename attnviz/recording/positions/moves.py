"""Position rules for operators that move elements.

They view, pick, join, pad, sort, or write into a part of a tensor or of its copy.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, by_names
from attnviz.recording.positions.position_math import (
    NOWHERE,
    compact,
    extended,
    mean_over,
    same_memory,
)
from attnviz.recording.positions.position_registry import PositionRegistry, lies_nowhere, or_nowhere


def _moved(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """An operator that moves elements moves their positions in the same way."""
    positions = registry.get(op.args[0])
    return None if positions is None else op.func(positions, *op.args[1:], **op.kwargs)


def _picked(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """An operator that picks elements in any order; extrapolated padding now lies nowhere."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    return op.func(registry.within(positions), *op.args[1:], **op.kwargs)


def _turned(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    """`roll` and `flip`; along a dimension of equal positions they change no position."""
    positions = registry.get(op.args[0])
    if positions is None or not op.args[1:] or (op.name == "roll" and not op.args[2:]):
        return None if positions is None else op.func(positions, *op.args[1:], **op.kwargs)
    small = compact(registry.within(positions) if op.name == "roll" else positions)
    return op.func(small, *op.args[1:], **op.kwargs).expand(result.shape)


def _selected(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    """`index_select`."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    dim, index = op.args[1:3]
    small = compact(registry.within(positions))
    if small.shape[dim] > 1:
        small = small.index_select(dim, index)
    return small.expand(result.shape)


def _reshaped(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    shape = tuple(result.shape)
    return registry.reshaped.get(positions, shape, lambda: reshape(positions, shape))


def reshape(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A reshape that does not copy features which have the same position."""
    same = 0  # number of last dimensions that stay
    while same < min(positions.ndim, len(shape)) and positions.shape[-1 - same] == shape[-1 - same]:
        same += 1
    for dim in range(positions.ndim - same, positions.ndim):
        if positions.stride(dim) == 0 and positions.shape[dim]:
            positions = positions.narrow(dim, 0, 1)
    last = positions.shape[positions.ndim - same :]
    return positions.reshape((*shape[: len(shape) - same], *last)).expand(shape)


def _joined(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`cat` and `stack`: parts that do not come from the picture lie nowhere."""
    parts = []
    for part in op.args[0]:
        positions = registry.get(part)
        if positions is None:
            positions = torch.full((), NOWHERE, device=part.device).expand(part.shape)
        parts.append(positions)
    dim = op.get(1, "dim", 0)
    if op.name == "stack":
        return op.func(parts, dim)
    return _cat(parts, dim)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenated positions, without copies of features that have the same position."""
    parts = [part for part in parts if part.ndim > 1 or part.numel()]  # torch.cat does the same
    dim %= parts[0].ndim
    first = parts[0]
    constant = first.stride(dim) == 0 and first.shape[dim]
    if constant and all(
        p.stride(dim) == 0 and p.shape[dim] and same_memory(p.select(dim, 0), first.select(dim, 0))
        for p in parts[1:]
    ):
        count = sum(part.shape[dim] for part in parts)
        sizes = [count if d == dim else size for d, size in enumerate(first.shape)]
        return first.narrow(dim, 0, 1).expand(sizes)
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    for other in range(parts[0].ndim):
        if other != dim and all(p.stride(other) == 0 and p.shape[other] for p in parts):
            parts = [part.narrow(other, 0, 1) for part in parts]
    return torch.cat(parts, dim).expand(shape)


def _padded(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    pad = op.args[1]
    for number in range(len(pad) // 2):
        positions = registry.padded(
            positions, positions.ndim - 1 - number, *pad[2 * number : 2 * number + 2]
        )
    return positions


def _by_parts(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """Operators that move elements and accept real numbers only."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    return _of_parts(positions, lambda part: op.func(part, *op.args[1:], **op.kwargs))


def _of_parts(positions: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.complex(*(move(part.contiguous()) for part in (positions.real, positions.imag)))


def _unfolded(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`im2col`; its padding continues the positions beyond the picture."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    kernel, dilation, padding, stride = op.args[1:5]
    for dim, each in ((-2, padding[0]), (-1, padding[-1])):
        if each:
            positions = extended(positions, positions.ndim + dim, each, each)
    return _of_parts(positions, lambda part: op.func(part, kernel, dilation, [0, 0], stride))


def _folded(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """`col2im`; an element that several patches share lies between their positions."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    x, y, count = (op.func(part, *op.args[1:], **op.kwargs) for part in _planes(positions))
    return torch.complex(x / count, y / count)


def _planes(positions: Tensor) -> list[Tensor]:
    """x, y and 1 of known positions, and 0 elsewhere."""
    finite = positions.real.isfinite()
    parts = (positions.real, positions.imag, finite.float())
    return [torch.where(finite, part, 0.0).contiguous() for part in parts]


def _split_heads(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """The fast path's (B, N, 3·C) → three times (B, H, N, C/H)."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    tokens = mean_over(positions, -1)[:, None]  # (B, 1, N, 1)
    return tuple(tokens.expand(each.shape) for each in result)


def _complex_view(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    if op.name == "view_as_complex":
        return positions[..., 0]
    return positions[..., None].expand(result.shape)


def _ordered(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`sort`, `topk` and similar operators: positions move as the returned indices say."""
    positions = registry.get(op.args[0])
    if positions is None or not isinstance(result, tuple | list):
        return None
    number = {"topk": 2, "kthvalue": 2}.get(op.name, 1)
    dim = op.get(number, "dim", -1)
    if isinstance(dim, bool):  # sort.stable has its flag before dim
        dim = op.kwargs.get("dim", -1)
    values, indices = result[:2]
    if indices.ndim < positions.ndim:
        found = positions.gather(dim, indices.unsqueeze(dim)).squeeze(dim)
    else:
        found = positions.gather(dim, indices)
    return (found.expand(values.shape),)


def _looked_up(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`embedding`: rows have the positions of their indices."""
    positions = registry.get(op.args[1])
    return None if positions is None else positions[..., None].expand(result.shape)


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
    planes = [_planes(or_nowhere(registry, each, each)) for each in (op.args[0], source)]
    x, y, count = (add(base, dim, index, more) for base, more in zip(*planes, strict=True))
    return torch.complex(x / count, y / count)


RULES = by_names(
    {
        "permute transpose t expand unsqueeze squeeze slice select split split_with_sizes "
        "unsafe_split unsafe_split_with_sizes chunk narrow unbind repeat unfold diagonal "
        "pixel_shuffle pixel_unshuffle channel_shuffle repeat_interleave movedim": _moved,
        "index gather take": _picked,
        "roll flip": _turned,
        "index_select": _selected,
        "view _unsafe_view reshape _reshape_alias": _reshaped,
        "cat stack": _joined,
        "constant_pad_nd": _padded,
        "reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d": _by_parts,
        "im2col": _unfolded,
        "col2im": _folded,
        "_transform_bias_rescale_qkv": _split_heads,
        "view_as_complex view_as_real": _complex_view,
        "sort topk kthvalue mode": _ordered,
        "embedding": _looked_up,
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
