"""Arithmetic of positions x + iy; some positions are `NOWHERE`, others are lost."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

NOWHERE = complex(float("nan"), float("nan"))
"""The position of an element that is not part of the picture."""
T = TypeVar("T")
_REMEMBERED = 64
"""The largest number of results that a `Memo` keeps."""


class Memo:
    """A cache of results, by the memory of the positions that they are computed from.

    Blocks of a model pass the same positions on, so each block would compute the same again.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Any, Any]] = {}

    def get(self, positions: Tensor | Sequence[Tensor], rest: Hashable, do: Callable[[], T]) -> T:
        """The result of `do` for these positions and the key `rest`; computed once."""
        sources = (positions,) if isinstance(positions, Tensor) else tuple(positions)
        key = (*map(_layout, sources), rest)
        if key not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[key] = sources, do()  # keeping the sources keeps their memory from reuse
        found: T = self._found[key][1]
        return found


def _layout(tensor: Tensor) -> Hashable:
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def same_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of positions are the same view of the same memory."""
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape[-other.ndim :] == other.shape[-one.ndim :]
        and varying(one) == varying(other)
        and all(one.stride(dim) == other.stride(dim) for dim in varying(one))
    ) or (not varying(one) and not varying(other) and one.data_ptr() == other.data_ptr())


def varies(positions: Tensor, dim: int) -> bool:
    """Whether positions may differ along a dimension."""
    return positions.shape[dim] > 1 and positions.stride(dim) != 0


def varying(positions: Tensor) -> frozenset[int]:
    """Dimensions, numbered from the end, along which positions may differ."""
    steps = zip(positions.shape, positions.stride(), strict=True)
    return frozenset(
        dim - positions.ndim for dim, (size, step) in enumerate(steps) if size > 1 and step
    )


def compact(positions: Tensor) -> Tensor:
    """Positions with size 1 along dimensions where they do not differ."""
    for dim, (size, step) in enumerate(zip(positions.shape, positions.stride(), strict=True)):
        if size > 1 and step == 0:
            positions = positions.narrow(dim, 0, 1)
    return positions


def narrowed(positions: Tensor) -> Tensor:
    """Positions expanded along all dimensions along which they are equal; NaN equals NaN."""
    small = compact(positions)
    for dim in range(small.ndim):
        if small.shape[dim] > 1:
            first = small.narrow(dim, 0, 1)
            if are_equal(small, first.expand_as(small)):
                small = first
    return small.expand(positions.shape)


def lost_at(positions: Tensor) -> Tensor:
    """Which positions are lost, boolean."""
    return positions.real.isinf()


def mean_over(positions: Tensor, dims: int | Sequence[int]) -> Tensor:
    """Mean over dimensions, with keepdim, ignoring `NOWHERE`; lost if any position is lost."""
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    for dim in dims:
        if positions.shape[dim] and positions.stride(dim) == 0:
            positions = positions.narrow(dim, 0, 1)
    dims = tuple(dim % positions.ndim for dim in dims if positions.shape[dim] != 1)
    if not dims:
        return positions
    parts = torch.view_as_real(positions.resolve_conj()).nanmean(dims, keepdim=True)
    return torch.view_as_complex(parts)


def spans_picture(positions: Tensor, dims: Sequence[int], width: int, height: int) -> Tensor:
    """Whether positions along dimensions (keepdim) extend over at least half of both sides.

    In a patch half as wide as the picture, the distance from the first to the last pixel is one
    pixel less than this half.
    """
    dims = [dim % positions.ndim for dim in dims]
    parts = []
    for part, side in ((positions.real, width), (positions.imag, height)):
        low = torch.where(part.isfinite(), part, torch.inf).amin(dims, keepdim=True)
        high = torch.where(part.isfinite(), part, -torch.inf).amax(dims, keepdim=True)
        parts.append(high - low > side / 2 - 0.75)
    return parts[0] & parts[1]


def step_of(values: Tensor) -> float:
    """The median distance of neighbouring coordinates; 0 if there is only one coordinate."""
    steps = (values[values.isfinite()] * 4).round().sort().values.diff() / 4
    steps = steps[steps > 0]
    return float(steps.median()) if len(steps) else 0.0


def differs_by_feature(positions: Tensor) -> bool:
    """Whether positions (…, rows, features) differ more by feature than by row.

    If so, the features are the tokens, as in attention over channels, and the rows lie nowhere.
    """
    if not varies(positions, -1):
        return False
    small = compact(positions)
    spans = []
    for dim in (-1, -2):
        parts = torch.view_as_real(small.resolve_conj())
        low = torch.where(parts.isfinite(), parts, torch.inf).amin(dim - 1)
        high = torch.where(parts.isfinite(), parts, -torch.inf).amax(dim - 1)
        span = (high - low)[(high - low).isfinite()]
        spans.append(float(span.mean()) if span.numel() else 0.0)
    return spans[0] > spans[1]


def average(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Mean of positions of one shape, weighted by shares, ignoring `NOWHERE`.

    The mean is lost where one of the positions is lost.
    """
    stacked = torch.stack([torch.view_as_real(part.resolve_conj()) for part in parts])
    weights = torch.tensor(shares, device=stacked.device).reshape(-1, *[1] * (stacked.ndim - 1))
    finite = stacked.isfinite()
    mean = (torch.where(finite, stacked, 0.0) * weights).sum(0) / (finite * weights).sum(0)
    lost = stacked[..., 0].isinf()
    number = torch.where(lost, stacked[..., 1], -1).amax(0)
    x = torch.where(lost.any(0), torch.inf, mean[..., 0])
    return torch.complex(x, torch.where(lost.any(0), number, mean[..., 1]))


def are_equal(one: Tensor, other: Tensor) -> bool:
    """Whether positions are the same; `NOWHERE` equals `NOWHERE`."""
    parts = [torch.view_as_real(p.resolve_conj()).nan_to_num(-1, -2) for p in (one, other)]
    return torch.equal(*parts)


def sampled(positions: Tensor, dim: int, at: Tensor, *, nearest: bool = False) -> Tensor:
    """Positions at fractional indices along a dimension, extrapolated linearly outside.

    `nearest`: if neighbours lie apart, take the nearest one instead of interpolating.
    """
    size = positions.shape[dim]
    if size < 2:
        return positions.expand(*positions.shape[:dim], len(at), *positions.shape[dim:][1:])
    low = at.floor().clamp(0, size - 2)
    part = (at - low).to(positions.device, positions.real.dtype)
    low = low.long().to(positions.device)
    before, after = positions.index_select(dim, low), positions.index_select(dim, low + 1)
    part = part.reshape(-1, *[1] * (-dim - 1))
    between = torch.view_as_real(before) * (1 - part[..., None])
    between = between + torch.view_as_real(after) * part[..., None]
    part = part.expand(before.shape)
    found = torch.where((part == 0) | after.real.isnan(), before, torch.view_as_complex(between))
    found = torch.where(before.real.isnan() & (part > 0), after, found)
    if not nearest:
        return found
    near = torch.where(part < 0.5, before, after)
    steps = (after - before).abs()
    usual = steps[steps.isfinite()]
    apart = steps > (1.5 * usual.median() + 0.5 if len(usual) else torch.inf)
    return torch.where(apart, near, found)


def extended(positions: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Positions with padding along a dimension; evenly spaced positions are continued.

    If they are not evenly spaced, the padding lies nowhere. Negative numbers crop.
    """
    start, stop = max(-before, 0), positions.shape[dim] - max(-after, 0)
    positions = positions.narrow(dim, start, max(stop - start, 0))
    before, after = max(before, 0), max(after, 0)
    if not before and not after:
        return positions
    size = positions.shape[dim]
    if size > 1 and positions.stride(dim) and _evenly_spaced(positions, dim):
        return sampled(
            positions,
            dim - positions.ndim if dim >= 0 else dim,
            torch.arange(-before, size + after).float(),
        )
    shape = list(positions.shape)
    nowhere = torch.full((), NOWHERE, device=positions.device)
    parts = []
    for count in (before, after):
        shape[dim] = count
        parts.append(nowhere.expand(shape))
    return torch.cat([parts[0], positions, parts[1]], dim)


def _evenly_spaced(positions: Tensor, dim: int) -> bool:
    """Whether positions have equal steps along a dimension."""
    positions = compact(positions)
    size = positions.shape[dim]
    steps = positions.narrow(dim, 1, size - 1) - positions.narrow(dim, 0, size - 1)
    off = (steps - steps.narrow(dim, 0, 1)).abs()
    return bool((off <= 1e-3).all())


def windowed(
    positions: Tensor,
    dim: int,
    starts: Sequence[int],
    steps: Sequence[int],
    weights: Tensor | None = None,
) -> Tensor:
    """Means over windows along a dimension (negative); positions are extrapolated linearly.

    `starts` are the first indices of the windows, `steps` the offsets of a window's elements. For a
    window over parts that lie apart, the mean is weighted by the elements' `weights`.
    """
    if positions.shape[dim] == 1:  # all positions are equal, or there is a single row
        return positions
    at = torch.tensor(starts)[:, None] + torch.tensor(steps)[None]  # (windows, elements)
    size = positions.shape[dim]
    before, after = max(-int(at.min()), 0), max(int(at.max()) - size + 1, 0)
    if before or after:
        positions = extended(positions, positions.ndim + dim, before, after)
    found = positions.index_select(dim, (at.flatten() + before).to(positions.device))
    shape = list(found.shape)
    axis = dim % len(shape)
    shape[axis : axis + 1] = at.shape
    found = found.reshape(shape)
    mean = mean_over(found, dim).squeeze(dim)
    if weights is None:
        return mean
    return torch.where(_apart(found, dim), weighted_mean(found, dim, weights), mean)


def weighted_mean(positions: Tensor, dim: int, weights: Tensor) -> Tensor:
    """Mean along a dimension (negative), with weights ≥ 0 along it, ignoring `NOWHERE`."""
    share = weights.reshape(-1, *[1] * (-dim - 1)).to(positions.device) * positions.real.isfinite()
    parts = [
        (torch.where(share > 0, part, 0.0) * share).sum(dim) / share.sum(dim)
        for part in (positions.real, positions.imag)
    ]
    lost = positions.real.isinf().any(dim)
    number = torch.where(positions.real.isinf(), positions.imag, -1).amax(dim)
    x = torch.where(lost, torch.inf, parts[0])
    return torch.complex(x, torch.where(lost, number, parts[1]))


def _apart(windows: Tensor, dim: int) -> Tensor:
    """Which windows contain parts that lie apart, as at the seam of a rolled picture."""
    count = windows.shape[dim] - 1
    nothing = torch.zeros((), dtype=torch.bool, device=windows.device)
    if count < 1:
        return nothing
    steps = (windows.narrow(dim, 1, count) - windows.narrow(dim, 0, count)).abs()
    usual = steps[steps.isfinite()]
    if not len(usual):
        return nothing
    return (steps.nan_to_num(0.0, 0.0) > 1.5 * usual.median() + 0.5).any(dim)
