"""Where in the picture every token of a running model comes from.

Beside each tensor that is made of the picture goes another of the same shape: the positions x + iy
that its elements come from, in pixels of the model's input. What moves elements (views, windows,
shifts, padding) moves positions; what mixes channels averages them, and since the channels of a
token lie together that is where the token lies; convolutions and pools give the centre of what
they see. So the layout of tokens is measured, for any model, never guessed from name or size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnviz.attention.recording.kernels import HEADS_FIRST, TOKENS_FIRST
from attnviz.attention.recording.known import Known
from attnviz.attention.recording.operation import Operation, first

NOWHERE = complex(float("nan"), float("nan"))


class Origins:
    """Positions of the elements of tensors, starting with a picture (B, C, H, W)."""

    def __init__(self, picture: Tensor) -> None:
        height, width = picture.shape[-2:]
        y = torch.arange(height, device=picture.device) + 0.5
        x = torch.arange(width, device=picture.device) + 0.5
        lattice = torch.complex(x.expand(height, -1), y[:, None].expand(-1, width))
        self._known: Known[Tensor] = Known()
        self._known.put(picture, lattice.expand(picture.shape))

    def tokens(self, tensor: Tensor, over: int) -> Tensor | None:
        """Positions of tokens: the mean over the dimension of their channels; None if unknown."""
        found = self._known.get(tensor)
        return None if found is None else _mean(found, over).squeeze(over)

    def put(self, tensor: Tensor, positions: Tensor) -> None:
        """Where the elements of a tensor come from, as a tensor that broadcasts to it."""
        self._known.put(tensor, positions.expand(tensor.shape))

    def follow(self, op: Operation, result: Any) -> None:
        """Where the result of an operation comes from."""
        if all(self._known.get(argument) is None for argument in op.flat):
            return
        rule: Rule = _RULES.get(op.name, _pointwise)
        found = rule(op, self._known.get, result)
        results = result if isinstance(result, tuple | list) else (result,)
        several = found if isinstance(found, tuple | list) else (found,)
        for each, positions in zip(results, several, strict=False):
            if isinstance(each, Tensor) and positions is not None:
                self._known.put(each, positions)


Get = Callable[[object], Tensor | None]
Rule = Callable[[Operation, Get, Any], Any]
"""From an operation, what is known of its arguments, and its result: where that lies."""


def _mean(positions: Tensor, dim: int) -> Tensor:
    """Mean over a dimension, which stays; most often it has but one value."""
    if positions.stride(dim) == 0 and positions.shape[dim]:
        return positions.narrow(dim, 0, 1)
    return positions.mean(dim, keepdim=True)


def _pointwise(op: Operation, get: Get, result: Any) -> Tensor | None:
    """The result lies where an operand of its shape lies, or else one that broadcasts to it."""
    result = first(result)
    if not isinstance(result, Tensor):
        return None
    found = [positions for positions in map(get, op.flat) if positions is not None]
    for positions in found:
        if positions.shape == result.shape:
            return positions
    for positions in found:
        if op.is_pointwise and positions.ndim <= result.ndim:
            return positions.expand(result.shape)
    return None


def _moved(op: Operation, get: Get, _: Any) -> Any:
    """What moves elements moves positions."""
    positions = get(op.args[0])
    return None if positions is None else op.func(positions, *op.args[1:], **op.kwargs)


def _reshaped(op: Operation, get: Get, result: Tensor) -> Any:
    positions = get(op.args[0])
    return None if positions is None else positions.reshape(result.shape)


def _joined(op: Operation, get: Get, _: Any) -> Any:
    """`cat` and `stack`: what is not of the picture lies nowhere."""
    parts = []
    for part in op.args[0]:
        positions = get(part)
        if positions is None:
            positions = torch.full((), NOWHERE, device=part.device).expand(part.shape)
        parts.append(positions)
    return op.func(parts, *op.args[1:], **op.kwargs)


def _padded(op: Operation, get: Get, _: Any) -> Any:
    positions = get(op.args[0])
    return None if positions is None else op.func(positions, op.args[1], NOWHERE)


def _averaged(op: Operation, get: Get, result: Any) -> Any:
    """Reductions lie in the middle of what they were taken over."""
    positions = get(op.args[0])
    if positions is None or len(op.args) < 2:
        return None
    found = positions.mean(op.args[1], keepdim=bool(op.get(2, "keepdim", False)))
    return found if found.shape == first(result).shape else None


def _product(op: Operation, get: Get, result: Any) -> Any:
    """`mm` and its like: a row of the left operand, or else a column of the right one."""
    left, right = op.args[-2], op.args[-1]
    if op.name in ("addmm", "baddbmm", "_addmm_activation"):
        left, right = op.args[1], op.args[2]
    positions = get(left)
    if positions is not None:
        return _mean(positions, -1).expand(result.shape)
    positions = get(right)
    return None if positions is None else _mean(positions, -2).expand(result.shape)


def _attention(op: Operation, get: Get, result: Any) -> Any:
    """The output of an attention call lies where its queries lie."""
    positions = get(op.args[0] if op.args else op.kwargs.get("query", op.kwargs.get("q")))
    if positions is None:
        return None
    return _mean(positions, -1).expand(first(result).shape)


def _complex_view(op: Operation, get: Get, result: Any) -> Any:
    positions = get(op.args[0])
    if positions is None:
        return None
    if op.name == "view_as_complex":
        return positions[..., 0]
    return positions[..., None].expand(result.shape)


def _convolved(op: Operation, get: Get, result: Any) -> Any:
    """The centre of the kernel."""
    positions, weight = get(op.args[0]), op.args[1]
    if positions is None or op.args[6]:  # transposed
        return None
    positions = _mean(positions, -len(op.args[3]) - 1)
    sizes = weight.shape[2:]
    return _windows(positions, sizes, op.args[3], op.args[4], op.args[5], result)


def _pooled(op: Operation, get: Get, result: Any) -> Any:
    positions = get(op.args[0])
    if positions is None:
        return None
    result = result[0] if isinstance(result, tuple) else result
    kernel = op.args[1]
    stride = op.args[2] if len(op.args) > 2 and op.args[2] else kernel
    padding = op.args[3] if len(op.args) > 3 else [0]
    dilation = op.args[4] if len(op.args) > 4 and op.name == "max_pool2d_with_indices" else 1
    return _windows(positions, kernel, stride, padding, dilation, result)


def _windows(  # noqa: PLR0917 — a convolution's own arguments
    positions: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, result: Any
) -> Tensor:
    """Centres of windows over the last dimensions, as many as `kernel` has."""
    count = len(kernel)
    for i in range(count):
        dim, size = i - count, result.shape[i - count]
        s, p, d = (_each(value, i) for value in (stride, padding, dilation))
        at = torch.arange(size) * s - p + (kernel[i] - 1) * d / 2
        positions = _sampled(positions, dim, at)
    return positions.expand(result.shape)


def _resized(op: Operation, get: Get, result: Any) -> Any:
    """`interpolate` and adaptive pools: pixel i of m lies at (i + ½)·n/m − ½ of n."""
    positions = get(op.args[0])
    if positions is None or positions.ndim < 4:
        return None
    for dim in (-2, -1):
        n, m = positions.shape[dim], result.shape[dim]
        positions = _sampled(positions, dim, (torch.arange(m) + 0.5) * n / m - 0.5)
    return positions


def _sampled(positions: Tensor, dim: int, at: Tensor) -> Tensor:
    """Positions at fractions of an index along a dimension, on the same straight line outside.

    What lies nowhere at the ends is padding that a convolution is about to take away.
    """
    inside = positions.real.isfinite().movedim(dim, 0).flatten(1).any(1).nonzero()
    if len(inside) < 2:
        only = positions.narrow(dim, int(inside[0]) if len(inside) else 0, 1)
        return only.expand(*positions.shape[:dim], len(at), *positions.shape[dim:][1:])
    low = at.floor().clamp(int(inside[0]), int(inside[-1]) - 1)
    part = (at - low).to(positions.device, positions.real.dtype)
    low = low.long().to(positions.device)
    before, after = positions.index_select(dim, low), positions.index_select(dim, low + 1)
    return before + part.reshape(-1, *[1] * (-dim - 1)) * (after - before)


def _unfolded(op: Operation, get: Get, _: Any) -> Any:
    """`im2col` knows real numbers only."""
    positions = get(op.args[0])
    if positions is None:
        return None
    real, imag = (
        op.func(part.contiguous(), *op.args[1:]) for part in (positions.real, positions.imag)
    )
    return torch.complex(real, imag)


def _each(value: Any, i: int) -> Any:
    return value if isinstance(value, int) else value[i if len(value) > 1 else 0]


_RULES: dict[str, Rule] = {
    name: rule
    for names, rule in {
        "permute transpose t expand unsqueeze squeeze slice select split split_with_sizes "
        "chunk narrow unbind roll flip repeat index index_select gather unfold diagonal "
        "pixel_shuffle pixel_unshuffle channel_shuffle": _moved,
        "view _unsafe_view reshape": _reshaped,
        "cat stack": _joined,
        "constant_pad_nd": _padded,
        "mean sum amax amin max min": _averaged,
        "mm bmm addmm baddbmm _addmm_activation": _product,
        "view_as_complex view_as_real": _complex_view,
        "convolution": _convolved,
        "max_pool2d_with_indices avg_pool2d": _pooled,
        "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d "
        "_upsample_bilinear2d_aa _upsample_bicubic2d_aa": _resized,
        "im2col": _unfolded,
    }.items()
    for name in names.split()
} | dict.fromkeys(HEADS_FIRST | TOKENS_FIRST, _attention)
"""By the name of the operator; any other is taken for one that leaves elements where they are."""
