"""Position rules for operators that slide over a picture: convolutions, pools, resampling."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnviz.recording.operation import Operation, by_names
from attnviz.recording.positions.position_math import (
    NOWHERE,
    compact,
    mean_over,
    sampled,
    windowed,
)
from attnviz.recording.positions.position_registry import PositionRegistry


def _convolved(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    """The middle of the kernel; for a transposed convolution the middle of an output's inputs."""
    positions, weight = registry.get(op.args[0]), op.args[1]
    if positions is None:
        return None
    stride, padding, dilation, transposed = op.args[3:7]
    sizes = weight.shape[2:]
    positions = compact(mean_over(positions, -len(sizes) - 1))
    even = registry.is_pixels(positions)
    for i in range(len(sizes)):
        dim = i - len(sizes)
        s, p, d = (_each(value, i) for value in (stride, padding, dilation))
        size, reach = result.shape[dim], d * (sizes[i] - 1)
        if transposed:
            at = (torch.arange(size) + p - reach / 2) / s
            positions = sampled(positions, dim, at)
        else:
            if not even:
                registry.on_read(weight)
            starts, steps = range(-p, -p + size * s, s), range(0, reach + 1, d)
            shares = weight.detach().abs().float().movedim(2 + i, 0).flatten(1).sum(1)
            positions = windowed(positions, dim, starts, steps, None if even else shares)
    return positions.expand(result.shape)


def _pooled(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """The middle of the window."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    result = result[0] if isinstance(result, tuple) else result
    kernel = op.args[1]
    stride = op.args[2] if len(op.args) > 2 and op.args[2] else kernel
    padding = op.args[3] if len(op.args) > 3 else [0]
    dilation = op.args[4] if len(op.args) > 4 and op.name.startswith("max_pool") else 1
    count = 3 if op.name.endswith(("3d", "3d_with_indices")) else 1 if "1d" in op.name else 2
    positions = compact(positions)
    for i in range(count):
        dim = i - count
        k, s, p, d = (_each(value, i) for value in (kernel, stride, padding, dilation))
        starts = range(-p, -p + result.shape[dim] * s, s)
        positions = windowed(positions, dim, starts, range(0, d * (k - 1) + 1, d))
    return (positions.expand(result.shape),)


def _adapted(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """Adaptive pools: window i of m begins at ⌊i·n/m⌋ and ends at ⌈(i+1)·n/m⌉."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    result = result[0] if isinstance(result, tuple) else result
    count = int(op.name.rstrip("d")[-1])
    everywhere = registry.spans_picture(compact(positions), list(range(-count, 0)))
    if result.shape[-count:].numel() == 1 and bool(everywhere.any()):
        nowhere = torch.full((), NOWHERE, device=positions.device)
        return (nowhere.expand(result.shape),)
    positions = compact(positions)
    for dim in range(-count, 0):
        n, m = positions.shape[dim], result.shape[dim]
        if n == 1:
            continue
        ends = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        middles = torch.tensor([(start + end - 1) / 2 for start, end in ends])
        positions = sampled(positions, dim, middles)
    return (positions.expand(result.shape),)


def _resized(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    """`interpolate`: pixel i of m lies at (i + ½)·n/m − ½ of n, or with aligned corners."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    count = 1 if "1d" in op.name or "linear1d" in op.name else 3 if "3d" in op.name else 2
    names = [argument.name for argument in op.func._schema.arguments]  # noqa: SLF001
    arguments = dict(zip(names, op.args, strict=False)) | op.kwargs
    factors = arguments.get("scale_factors") or [
        arguments.get(name)
        for name in ("scales_d", "scales_h", "scales_w", "scales")
        if name in names
    ]
    factors = list(factors)[-count:] if factors else [None] * count
    positions = compact(positions)
    for i in range(count):
        dim = i - count
        n, m = positions.shape[dim], result.shape[dim]
        at = torch.arange(m, dtype=torch.float64)
        if arguments.get("align_corners"):
            at = at * ((n - 1) / (m - 1) if m > 1 else 0)
        else:
            at = (at + 0.5) * (1 / factors[i] if factors[i] else n / m) - 0.5
        if n > 1:
            positions = sampled(positions, dim, at, nearest="nearest" in op.name)
    return positions.expand(result.shape)


def _sampled(registry: PositionRegistry, op: Operation, result: Tensor) -> Any:
    """`grid_sample`: positions are sampled like the picture; outside of it they lie nowhere."""
    positions, grid = registry.get(op.args[0]), op.args[1]
    if positions is None or positions.ndim != 4:
        return None
    mode, padding, corners = (*op.args[2:5],)
    positions = mean_over(positions, 1).expand(len(grid), 1, -1, -1)
    finite = positions.real.isfinite()
    planes = torch.cat([positions.real, positions.imag, finite.float()], 1).nan_to_num(0.0, 0.0)
    if bool(positions.real.isinf().any()):
        return None
    modes = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    # Bicubic weights overshoot, but they have the same centre as bilinear weights.
    found = F.grid_sample(
        planes.to(grid.dtype),
        grid,
        mode="nearest" if mode == 1 else "bilinear",
        padding_mode=modes[1][padding],
        align_corners=corners,
    )
    x, y, share = found.float().unbind(1)
    nowhere = torch.full((), NOWHERE, device=x.device)
    where = torch.where(share > 0.5, torch.complex(x / share, y / share), nowhere)
    return where[:, None].expand(result.shape)


def _each(value: Any, i: int) -> Any:
    return value if isinstance(value, int) else value[i if len(value) > 1 else 0]


RULES = by_names(
    {
        "convolution _convolution cudnn_convolution mkldnn_convolution": _convolved,
        "max_pool2d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d "
        "avg_pool3d": _pooled,
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d adaptive_max_pool1d": _adapted,
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
        "_upsample_nearest_exact2d upsample_linear1d upsample_bilinear2d upsample_bicubic2d "
        "upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa": _resized,
        "grid_sampler_2d": _sampled,
    }
)
"""Rules by operator name."""
