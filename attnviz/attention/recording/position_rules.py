"""What every operator does to positions: a table by the names of PyTorch's operators.

A rule is given the positions of the arguments and the result of an operation, and returns the
positions of its result or of its first results. None is returned where it knows no answer: then
positions are lost there, by the name of the operator. Operators that PyTorch itself marks as
pointwise (`torch.Tag.pointwise`) need no rule, and all others that have none lose positions.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnviz.attention.recording import position_windows as windows
from attnviz.attention.recording.kernels import HEADS_FIRST, TOKENS_FIRST
from attnviz.attention.recording.operation import Operation, first
from attnviz.attention.recording.position_math import (
    NOWHERE,
    average,
    compact,
    differs_by_feature,
    extended,
    mean_over,
    same_memory,
    varies,
    varying,
)

if TYPE_CHECKING:
    from attnviz.attention.recording.token_positions import TokenPositions

Rule = Callable[["TokenPositions", Operation, Any], Any]
"""From what is known, an operation and its result: where that lies."""


def pointwise(known: "TokenPositions", op: Operation, result: Any) -> Tensor | None:
    """The result lies where its operands do; between them where they lie at different places.

    An operand that is the same for all places (a gate, a mean) moves nothing, nor do masks and
    whole numbers beside floating-point operands.
    """
    result = first(result)
    if not isinstance(result, Tensor):
        return None
    operands = [each for each in op.flat if isinstance(each, Tensor)]
    content = [each for each in operands if each.is_floating_point() or each.is_complex()]
    found = combined(known, op, content, result)
    return combined(known, op, operands, result) if found is None else found


def combined(
    known: "TokenPositions", op: Operation, operands: Sequence[Tensor], result: Tensor
) -> Tensor | None:
    """Where the result of operands that broadcast to it lies; None if none is of the picture."""
    placed: list[tuple[Tensor, Tensor]] = []
    lost: list[tuple[Tensor, Tensor]] = []
    for operand in operands:
        positions = known.get(operand)
        if positions is not None and operand.ndim <= result.ndim:
            (lost if known.is_lost(positions) else placed).append((operand, positions))
    if len(placed) == 1 and not lost:
        return _expanded(placed[0][1], result)
    differ = frozenset[int]().union(*(varying(positions) for _, positions in placed))
    for operand, positions in lost:
        told_apart = {d for d in range(-operand.ndim, 0) if operand.shape[d] > 1}
        if not placed or differ & told_apart:
            return _expanded(positions, result)
    # An operand that varies along fewer dimensions is the same for many places.
    most = [
        (operand, p)
        for operand, p in placed
        if not any(varying(p) < varying(other) for _, other in placed)
    ]
    if not most:
        return None
    found = most[0][1]
    for operand, other in most[1:]:
        found = _between(known, found, other, lambda: _shares(op, most[0][0], operand))  # noqa: B023
    return _expanded(found, result)


def _shares(op: Operation, one: Tensor, other: Tensor) -> tuple[float, float]:
    """How much two operands make up of a sum; of other operations they count alike."""
    if op.name.rstrip("_") not in ("add", "sub"):
        return 1.0, 1.0
    other = other * op.kwargs.get("alpha", 1)
    if any(one is written for written in op.written):  # it holds the sum already
        one = one - other if op.name.startswith("add") else one + other
    return float(one.detach().float().norm()), float(other.detach().float().norm())


def _between(
    known: "TokenPositions",
    one: Tensor,
    other: Tensor,
    shares: Callable[[], tuple[float, float]],
) -> Tensor:
    """Where two operands that lie at `one` and `other` make up `shares` of a result."""
    if same_memory(one, other):
        return one if one.ndim >= other.ndim else other
    dims = max(one.ndim, other.ndim)
    small = [compact(p.reshape((1,) * (dims - p.ndim) + tuple(p.shape))) for p in (one, other)]
    first, second = _broadcast(small)
    if known.are_equal(first, second):
        return one
    return average([first, second], shares())


def _broadcast(parts: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of as many dimensions each, expanded to one shape."""
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    return [part.expand(shape) for part in parts]


def _expanded(positions: Tensor, result: Tensor) -> Tensor | None:
    """Positions that broadcast to a result's shape, expanded to it."""
    if positions.ndim > result.ndim:
        return None
    try:
        return positions.expand(result.shape)
    except RuntimeError:
        return None


def _first_stays(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """The first result lies where the first argument does; others are no tokens."""
    positions = known.get(op.args[0])
    return None if positions is None else (_expanded(positions, first(result)),)


def _moved(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """What moves elements moves positions."""
    positions = known.get(op.args[0])
    return None if positions is None else op.func(positions, *op.args[1:], **op.kwargs)


def _picked(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """What picks elements in any order; padding, which went on straight before, lies nowhere."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    return op.func(known.within(positions), *op.args[1:], **op.kwargs)


def _turned(known: "TokenPositions", op: Operation, result: Tensor) -> Any:
    """`roll` and `flip`, which change nothing along a dimension of equal positions."""
    positions = known.get(op.args[0])
    if positions is None or not op.args[1:] or (op.name == "roll" and not op.args[2:]):
        return None if positions is None else op.func(positions, *op.args[1:], **op.kwargs)
    small = compact(known.within(positions) if op.name == "roll" else positions)
    return op.func(small, *op.args[1:], **op.kwargs).expand(result.shape)


def _selected(known: "TokenPositions", op: Operation, result: Tensor) -> Any:
    """`index_select`."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    dim, index = op.args[1:3]
    small = compact(known.within(positions))
    if small.shape[dim] > 1:
        small = small.index_select(dim, index)
    return small.expand(result.shape)


def _reshaped(known: "TokenPositions", op: Operation, result: Tensor) -> Any:
    positions = known.get(op.args[0])
    if positions is None:
        return None
    shape = tuple(result.shape)
    return known.reshaped.get(positions, shape, lambda: reshape(positions, shape))


def reshape(positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A reshape that copies no features which lie at the same place."""
    same = 0  # last dimensions that stay
    while same < min(positions.ndim, len(shape)) and positions.shape[-1 - same] == shape[-1 - same]:
        same += 1
    for dim in range(positions.ndim - same, positions.ndim):
        if positions.stride(dim) == 0 and positions.shape[dim]:
            positions = positions.narrow(dim, 0, 1)
    kept = positions.shape[positions.ndim - same :]
    return positions.reshape((*shape[: len(shape) - same], *kept)).expand(shape)


def _joined(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`cat` and `stack`: what is not of the picture lies nowhere."""
    parts = []
    for part in op.args[0]:
        positions = known.get(part)
        if positions is None:
            positions = torch.full((), NOWHERE, device=part.device).expand(part.shape)
        parts.append(positions)
    dim = op.get(1, "dim", 0)
    if op.name == "stack":
        return op.func(parts, dim)
    return _cat(parts, dim)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    """Positions side by side, without copies of features that lie at the same place."""
    parts = [part for part in parts if part.ndim > 1 or part.numel()]  # as torch.cat does
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


def _padded(known: "TokenPositions", op: Operation, _: Any) -> Any:
    positions = known.get(op.args[0])
    if positions is None:
        return None
    pad = op.args[1]
    for number in range(len(pad) // 2):
        positions = extended(
            positions, positions.ndim - 1 - number, *pad[2 * number : 2 * number + 2]
        )
    return positions


def _by_parts(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """Operators that move elements, and know real numbers only."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    parts = [
        op.func(part.contiguous(), *op.args[1:], **op.kwargs)
        for part in (positions.real, positions.imag)
    ]
    return torch.complex(*parts)


def _unfolded(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`im2col`, whose padding goes on where the picture ends."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    kernel, dilation, padding, stride = op.args[1:5]
    for dim, each in ((-2, padding[0]), (-1, padding[-1])):
        if each:
            positions = extended(positions, positions.ndim + dim, each, each)
    parts = [
        op.func(part.contiguous(), kernel, dilation, [0, 0], stride)
        for part in (positions.real, positions.imag)
    ]
    return torch.complex(*parts)


def _averaged(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """Reductions lie in the middle of what they were taken over; of all the picture, nowhere."""
    positions, result = known.get(op.args[0]), first(result)
    if positions is None:
        return None
    number = 2 if op.name in ("norm", "linalg_vector_norm") else 1
    dims = op.get(number, "dim", None)
    dims = [dims] if isinstance(dims, int) else list(dims or range(positions.ndim))
    found = centre(known, positions, dims)
    if found.ndim != result.ndim:
        kept = [s for d, s in enumerate(found.shape) if d not in {x % positions.ndim for x in dims}]
        found = found.reshape(kept)
    return (found,) if found.shape == result.shape else None


def centre(known: "TokenPositions", positions: Tensor, dims: Sequence[int]) -> Tensor:
    """Mean over dimensions, which stay; nowhere if they lie all over the picture."""
    found = mean_over(positions, dims)
    moving = [d for d in dims if varies(positions, d)]
    if not moving:
        return found
    small = compact(positions)
    nowhere = torch.full((), NOWHERE, device=positions.device)
    everywhere = known.spans_picture(small, moving)
    return torch.where(everywhere, nowhere, compact(found)).expand(found.shape)


def _product(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`mm` and its like: a row of the left operand, or else a column of the right one.

    A row that lies nowhere, being a mean over the whole picture (attention over channels), leaves
    it to columns that lie at different places.
    """
    left, right = op.args[-2], op.args[-1]
    if op.name in ("addmm", "baddbmm", "_addmm_activation"):
        left, right = op.args[1], op.args[2]
    if op.name == "linear":
        left, right = op.args[0], op.args[1].mT
    rows, columns = known.get(left), known.get(right)
    if rows is None and columns is None:
        return None
    if columns is None:
        return _expanded(mixed(known, rows, right, -1), result)
    found = _expanded(mixed(known, columns, left if rows is None else None, -2), result)
    if rows is None:
        return found
    if differs_by_feature(rows) and varies(columns, -2):  # channels over tokens
        return _nowhere(known, op, result)[0]
    by_row = _expanded(centre(known, rows, [-1]), result)
    if by_row is None or found is None or not varies(columns, -1):
        return by_row
    return torch.where(compact(by_row).real.isnan(), compact(found), compact(by_row)).expand(
        result.shape
    )


_SPARSE = 0.25
"""A linear map of which fewer of its inputs count for an output moves more than it mixes."""


def mixed(
    known: "TokenPositions", positions: Tensor | None, weights: Tensor | None, dim: int
) -> Tensor:
    """Where a linear map along a dimension, −1 or −2, puts its outputs.

    `weights` are those of the map, (…, inputs, outputs) for −1 and (…, outputs, inputs) for −2;
    None where they are not constant. Where they are sparse (a shuffle, a shift, a banded filter)
    each output lies in the weighted middle of its inputs, else in the middle of all.
    """
    assert positions is not None
    if weights is None or not varies(positions, dim):
        return centre(known, positions, [dim])
    size = weights.detach().abs().float()
    inputs = -2 if dim == -1 else -1
    count = size.sum(inputs) ** 2 / (size**2).sum(inputs).clamp_min(1e-30)
    if bool(count.median() > _SPARSE * size.shape[inputs]):
        return centre(known, positions, [dim])
    there = positions.real.isfinite()
    planes = [positions.real, positions.imag, there.float()]
    planes = [torch.where(there, plane, 0.0) for plane in planes]
    x, y, share = (p @ size if dim == -1 else size @ p for p in planes)
    found = torch.complex(x / share, y / share)
    if bool(positions.real.isinf().any()):
        lost = positions.real.isinf().float()
        some = (lost @ size if dim == -1 else size @ lost) > 0
        number = positions.imag[positions.real.isinf()].max()
        found = torch.where(some, torch.complex(torch.tensor(torch.inf), number.float()), found)
    return found


def _attention(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """The output of an attention call lies where its queries lie; over channels, its values."""
    names = ("query", "q"), ("value", "v")
    query, value = (
        op.args[2 * i] if len(op.args) > 2 * i else next(map(op.kwargs.get, each), None)
        for i, each in enumerate(names)
    )
    positions, of_values = known.get(query), known.get(value)
    if positions is None:
        return None
    shape = first(result).shape
    if differs_by_feature(positions) and of_values is not None and op.name in HEADS_FIRST:
        return (centre(known, of_values, [-2]).expand(shape),)
    return (mean_over(positions, -1).expand(shape),)


def _split_heads(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """The fast path's (B, N, 3·C) → three times (B, H, N, C/H)."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    tokens = mean_over(positions, -1)[:, None]  # (B, 1, N, 1)
    return tuple(tokens.expand(each.shape) for each in result)


def _complex_view(known: "TokenPositions", op: Operation, result: Any) -> Any:
    positions = known.get(op.args[0])
    if positions is None:
        return None
    if op.name == "view_as_complex":
        return positions[..., 0]
    return positions[..., None].expand(result.shape)


def _chosen(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`where`: every element is one of two."""
    condition, *two = op.args
    if len(two) != 2:
        return None
    positions = [_or_nowhere(known, each, result) for each in two]
    return torch.where(condition, *positions)


def _or_nowhere(known: "TokenPositions", value: Any, like: Tensor) -> Tensor:
    """Positions of a value, expanded; constants lie nowhere."""
    found = known.get(value)
    if found is None:
        found = torch.full((), NOWHERE, device=like.device)
    return found.expand(like.shape)


def _written(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`copy_`: what is written to lies where its source does."""
    return known.within(_or_nowhere(known, op.args[1] if len(op.args) > 1 else None, result))


def _nowhere(_: "TokenPositions", __: Operation, result: Any) -> Any:
    """What is filled with constants, or is made of all the picture."""
    result = first(result)
    return (torch.full((), NOWHERE, device=result.device).expand(result.shape),)


def _indices_filled(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`index_put`: positions are put at the same places."""
    if op.get(3, "accumulate", False):
        return None
    base = _or_nowhere(known, op.args[0], op.args[0]).clone()
    values = op.args[2]
    return torch.ops.aten.index_put(base, op.args[1], _or_nowhere(known, values, values))


def _scattered(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`scatter` of values or of a number: positions are put at the same places."""
    dim, index, source = op.args[1:4]
    if op.kwargs or len(op.args) > 4:
        return None
    base = _or_nowhere(known, op.args[0], op.args[0]).clone()
    nowhere = torch.full((), NOWHERE, device=base.device).expand(index.shape)
    positions = _or_nowhere(known, source, source) if isinstance(source, Tensor) else nowhere
    return torch.scatter(base, dim, index, positions.contiguous())


def _masked_filled(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`masked_scatter` takes elements of its source in their order."""
    base, mask, source = op.args
    positions = _or_nowhere(known, source, source).contiguous()
    return _or_nowhere(known, base, base).clone().masked_scatter(mask, positions)


def _copied_to(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`index_copy`."""
    base, dim, index, source = op.args
    positions = _or_nowhere(known, source, source).contiguous()
    return _or_nowhere(known, base, base).clone().index_copy(dim, index, positions)


def _slice_written(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`slice_scatter` and `select_scatter`, which return a new tensor."""
    base, source = op.args[:2]
    target = _or_nowhere(known, base, base).clone()
    return op.func(
        target, _or_nowhere(known, source, source).contiguous(), *op.args[2:], **op.kwargs
    )


def _merged(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """`scatter_reduce`, `scatter_add` and `index_add`: what is put together lies in between."""
    if not op.kwargs.get("include_self", True):
        return None
    dim, index, source = op.args[1:4]
    add = torch.index_add if op.name.startswith("index_add") else torch.scatter_add
    planes = []
    for tensor in (op.args[0], source):
        positions = _or_nowhere(known, tensor, tensor)
        there = positions.real.isfinite()
        parts = (positions.real, positions.imag, there.float())
        planes.append([torch.where(there, part, 0.0).contiguous() for part in parts])
    x, y, count = (add(base, dim, index, more) for base, more in zip(*planes, strict=True))
    return torch.complex(x / count, y / count)


def _ordered(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`sort`, `topk` and their like: values are moved to where the indices say."""
    positions = known.get(op.args[0])
    if positions is None or not isinstance(result, tuple | list):
        return None
    number = {"topk": 2, "kthvalue": 2}.get(op.name, 1)
    dim = op.get(number, "dim", -1)
    if isinstance(dim, bool):  # sort.stable has its flag first
        dim = op.kwargs.get("dim", -1)
    values, indices = result[:2]
    if indices.ndim < positions.ndim:
        found = positions.gather(dim, indices.unsqueeze(dim)).squeeze(dim)
    else:
        found = positions.gather(dim, indices)
    return (found.expand(values.shape),)


def _along(known: "TokenPositions", op: Operation, _: Any) -> Any:
    """What mixes along a dimension changes no places where these are the same along it."""
    positions = known.get(op.args[0])
    dim = op.get(1, "dim", None)
    if positions is None or not isinstance(dim, int):
        return None
    return positions if positions.stride(dim) == 0 or positions.shape[dim] == 1 else None


def _transformed(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """Fourier transforms along tokens mix all of them, and lie nowhere."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    dims = [d % positions.ndim for d in op.args[1]]
    if any(positions.stride(d) and positions.shape[d] > 1 for d in dims):
        return _nowhere(known, op, result)
    for dim in dims:
        positions = positions.narrow(dim, 0, 1)
    return positions.expand(result.shape)


def _halves(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`glu`: one half gates the other."""
    positions = known.get(op.args[0])
    if positions is None:
        return None
    return average(positions.chunk(2, op.get(1, "dim", -1)), (1.0, 1.0)).expand(result.shape)


def _looked_up(known: "TokenPositions", op: Operation, result: Any) -> Any:
    """`embedding`: rows lie where their indices do."""
    positions = known.get(op.args[1])
    return None if positions is None else positions[..., None].expand(result.shape)


CONSTANT = frozenset(
    (
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("randint_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided"),
        *("empty_strided", "_local_scalar_dense", "is_nonzero", "_assert_async", "sym_size"),
        "_has_same_storage_numel",
    )
)
"""Operators that take no more than shapes or single numbers of what they are given."""

RULES: dict[str, Rule] = (
    {
        name: rule
        for names, rule in {
            "detach alias lift_fresh lift clone _to_copy contiguous _conj _neg_view resolve_conj "
            "_softmax _safe_softmax softmax _masked_softmax _log_softmax native_layer_norm "
            "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
            "_batch_norm_with_update _batch_norm_no_update cudnn_batch_norm miopen_batch_norm "
            "native_group_norm _fused_rms_norm rms_norm native_dropout hardswish hardswish_ "
            "rrelu_with_noise tril triu log_sigmoid_forward renorm real": _first_stays,
            "prelu _prelu_kernel rsub complex polar": pointwise,
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
            "mean sum amax amin max min var std logsumexp linalg_vector_norm norm prod nansum "
            "median nanmedian": _averaged,
            "mm bmm addmm baddbmm _addmm_activation linear matmul": _product,
            "_transform_bias_rescale_qkv": _split_heads,
            "view_as_complex view_as_real": _complex_view,
            "where": _chosen,
            "copy_": _written,
            "fill_ zero_ normal_ uniform_ bernoulli_ random_ exponential_": _nowhere,
            "index_put index_put_ _index_put_impl_": _indices_filled,
            "scatter scatter_": _scattered,
            "masked_scatter masked_scatter_": _masked_filled,
            "index_copy index_copy_": _copied_to,
            "slice_scatter select_scatter diagonal_scatter": _slice_written,
            "scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_": _merged,
            "sort topk kthvalue mode": _ordered,
            "cumsum cumprod logcumsumexp cummax cummin cumsum_": _along,
            "_fft_r2c _fft_c2c _fft_c2r": _transformed,
            "glu": _halves,
            "embedding": _looked_up,
        }.items()
        for name in names.split()
    }
    | windows.RULES
    | dict.fromkeys(HEADS_FIRST | TOKENS_FIRST, _attention)
)
"""By the name of the operator."""
