"""Position rules for operators that mix elements: reductions, products, attention, Fourier."""

import cmath
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.kernels import HEADS_FIRST, TOKENS_FIRST
from attnviz.recording.operation import Operation, by_names, first
from attnviz.recording.positions.pointwise import expanded
from attnviz.recording.positions.position_math import (
    NOWHERE,
    compact,
    differs_by_feature,
    mean_over,
    varies,
)
from attnviz.recording.positions.position_registry import (
    PositionRegistry,
    centre,
    lies_nowhere,
)


def _averaged(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """A reduction lies in the middle of its elements; over the whole picture it lies nowhere."""
    positions, result = registry.get(op.args[0]), first(result)
    if positions is None:
        return None
    number = 2 if op.name in ("norm", "linalg_vector_norm") else 1
    dims = op.get(number, "dim", None)
    dims = [dims] if isinstance(dims, int) else list(dims or range(positions.ndim))
    found = centre(registry, positions, dims)
    if found.ndim != result.ndim:
        sizes = [
            s for d, s in enumerate(found.shape) if d not in {x % positions.ndim for x in dims}
        ]
        found = found.reshape(sizes)
    return (found,) if found.shape == result.shape else None


def _product(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """`mm` and similar operators: positions of the left operand's rows, else the right's columns.

    If a row lies nowhere because it is a mean over the whole picture (attention over channels), and
    the columns have different positions, the columns' positions count.
    """
    left, right = op.args[-2], op.args[-1]
    if op.name in ("addmm", "baddbmm", "_addmm_activation"):
        left, right = op.args[1], op.args[2]
    if op.name == "linear":
        left, right = op.args[0], op.args[1].mT
    rows, columns = registry.get(left), registry.get(right)
    if rows is not None and columns is not None:
        return _product_of_two(registry, rows, columns, result)
    if rows is not None:
        return expanded(mixed(registry, rows, right, -1), result)
    if columns is not None:
        return expanded(mixed(registry, columns, left, -2), result)
    return None


def _packed(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """A linear map with packed weights of quantised numbers: positions of its rows."""
    rows = registry.get(op.args[0])
    return None if rows is None else expanded(centre(registry, rows, [-1]), result)


def _times_vector(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """A matrix times a vector: positions of the matrix's rows."""
    rows = registry.get(op.args[0])
    return None if rows is None else centre(registry, rows, [-1]).squeeze(-1).expand(result.shape)


def _product_of_two(
    registry: PositionRegistry, rows: Tensor, columns: Tensor, result: Tensor
) -> Tensor | None:
    """Positions of the product of two operands that both come from the picture."""
    if differs_by_feature(rows) and varies(columns, -2):  # channels × tokens
        nowhere = torch.full((), NOWHERE, device=result.device)
        return nowhere.expand(result.shape)
    queries = centre(registry, rows, [-1])
    if varies(columns, -2):  # weights × values
        queries = _within_windows(registry, queries, columns)
    by_row = expanded(queries, result)
    by_column = expanded(mixed(registry, columns, None, -2), result)
    if by_row is None or by_column is None or not varies(columns, -1):
        return by_row
    small = compact(by_row)
    if varies(columns, -2) and queries.shape[:-2] == columns.shape[:-2]:
        # Values that are whole windows, whose tokens lie beside each other as features (SepViT).
        aside = mean_over(columns - mean_over(columns, -1), -2)
        small = torch.where(aside.real.isfinite(), small + aside, small)
    empty = small.real.isnan()
    if not bool(empty.any()):
        return small.expand(result.shape)
    return torch.where(empty, compact(by_column), small).expand(result.shape)


_APART = 0.25
"""Input pixels: tokens of a window that lie less apart than this lie in one place."""
_SPARSE = 0.25
"""If outputs use at most this share of the inputs, a linear map moves elements, else it mixes."""


def mixed(
    registry: PositionRegistry, positions: Tensor, weights: Tensor | None, dim: int
) -> Tensor:
    """Positions of the outputs of a linear map along a dimension, −1 or −2.

    `weights` are the map's, (…, inputs, outputs) for −1 and (…, outputs, inputs) for −2; None if
    they are not constant. If they are sparse (a shuffle, a shift, a banded filter), each output
    lies at the weighted mean of its inputs, else at the mean of all inputs.
    """
    if weights is None or not varies(positions, dim):
        return centre(registry, positions, [dim])
    registry.on_read(weights)
    size = weights.detach().abs().float()
    inputs = -2 if dim == -1 else -1
    count = size.sum(inputs) ** 2 / (size**2).sum(inputs).clamp_min(1e-30)
    if bool(count.median() > _SPARSE * size.shape[inputs]):
        return centre(registry, positions, [dim])
    finite = positions.real.isfinite()
    planes = [positions.real, positions.imag, finite.float()]
    planes = [torch.where(finite, plane, 0.0) for plane in planes]
    x, y, share = (p @ size if dim == -1 else size @ p for p in planes)
    found = torch.complex(x / share, y / share)
    if bool(positions.real.isinf().any()):
        lost = positions.real.isinf().float()
        some = (lost @ size if dim == -1 else size @ lost) > 0
        number = positions.imag[positions.real.isinf()].max()
        found = torch.where(some, torch.complex(torch.tensor(torch.inf), number.float()), found)
    return found


def _paired(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """Distances of all pairs of rows: positions of the first operand's rows, as for products."""
    positions = registry.get(op.args[0])
    return None if positions is None else expanded(centre(registry, positions, [-1]), result)


def _attention(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """Attention: the output has its queries' positions; over channels, its values' positions."""
    names = ("query", "q"), ("value", "v")
    query, value = (
        op.args[2 * i] if len(op.args) > 2 * i else next(map(op.kwargs.get, each), None)
        for i, each in enumerate(names)
    )
    positions, of_values = registry.get(query), registry.get(value)
    shape = first(result).shape
    if positions is None:  # queries that do not come from the picture, such as objects
        return None if of_values is None else lies_nowhere(registry, op, result)
    if differs_by_feature(positions) and of_values is not None and op.name in HEADS_FIRST:
        return (centre(registry, of_values, [-2]).expand(shape),)
    queries = mean_over(positions, -1)
    if of_values is not None:
        swap = (-2, -3) if op.name in TOKENS_FIRST else (-2, -2)
        queries = _within_windows(
            registry, queries.transpose(*swap), of_values.transpose(*swap)
        ).transpose(*swap)
    return (queries.expand(shape),)


def _within_windows(registry: PositionRegistry, queries: Tensor, values: Tensor) -> Tensor:
    """Positions of attention's output, for queries (…, N, 1) and values (…, M, features).

    These are the queries' positions. But if windows at different places share queries that lie
    outside of the windows (GCViT's global queries), the output lies nowhere.
    """
    if not any(varies(values, dim) for dim in range(values.ndim - 2)):  # one window
        return queries
    if queries.shape[:-2] != values.shape[:-2]:
        return queries
    queries = registry.reshaped.get(
        [queries, values], "class", lambda: _amid_windows(registry, queries, values)
    )
    flat = queries.flatten(0, -3)
    one, other = complex(flat[0, 0, 0]), complex(flat[-1, 0, 0])
    if one != other and not (cmath.isnan(one) and cmath.isnan(other)):  # each has its own
        return queries
    return registry.reshaped.get(
        [queries, values], "windows", lambda: _outside_nowhere(queries, values)
    )


def _amid_windows(registry: PositionRegistry, queries: Tensor, values: Tensor) -> Tensor:
    """Queries, of which those that lie nowhere in every window (class tokens) lie in its middle.

    They stay nowhere if windows span the picture, if all lie in one place, or if each holds one
    place alone (of several frames).
    """
    local = registry.pictures.in_picture(compact(mean_over(values, -1)))
    parts = torch.view_as_real(local.resolve_conj())
    low, high = parts.nan_to_num(torch.inf).amin(-3), parts.nan_to_num(-torch.inf).amax(-3)
    if not bool((high - low > _APART).any()):
        return queries
    small = compact(queries)
    nowhere = small.real.isnan().flatten(0, -3).all(0)  # (N, 1)
    middle = compact(centre(registry, mean_over(values, -1), [-2]))
    if not bool(nowhere.any()) or not bool((middle != middle.flatten()[0]).any()):
        return queries
    return torch.where(nowhere, middle, small).expand(queries.shape)


def _outside_nowhere(queries: Tensor, values: Tensor) -> Tensor:
    queries_at = torch.view_as_real(queries.flatten(0, -3))[..., 0, :]  # (windows, N, 2)
    values_at = torch.view_as_real(compact(values).expand(*values.shape[:-1], -1).flatten(0, -3))
    values_at = values_at[:, :, 0]  # (windows, M, 2)
    low = torch.where(values_at.isfinite(), values_at, torch.inf).amin(1, keepdim=True)
    high = torch.where(values_at.isfinite(), values_at, -torch.inf).amax(1, keepdim=True)
    same = torch.equal(
        queries_at.nan_to_num(-1), queries_at[:1].expand_as(queries_at).nan_to_num(-1)
    )
    if not same or torch.equal(low, low[:1].expand_as(low)):
        return queries
    inside = ((queries_at >= low) & (queries_at <= high)).all(-1).sum(1)
    outside = inside * 2 < queries_at.isfinite().all(-1).sum(1)
    outside = outside.reshape(*queries.shape[:-2], 1, 1)
    nowhere = torch.full((), NOWHERE, device=queries.device)
    return torch.where(outside, nowhere, queries)


def _along(registry: PositionRegistry, op: Operation, _: Any) -> Any:
    """Mixing along a dimension keeps positions if they are equal along this dimension."""
    positions = registry.get(op.args[0])
    dim = op.get(1, "dim", None)
    if positions is None or not isinstance(dim, int):
        return None
    return positions if positions.stride(dim) == 0 or positions.shape[dim] == 1 else None


def _transformed(registry: PositionRegistry, op: Operation, result: Any) -> Any:
    """A Fourier transform along tokens mixes all tokens, so the result lies nowhere."""
    positions = registry.get(op.args[0])
    if positions is None:
        return None
    dims = [d % positions.ndim for d in op.args[1]]
    if any(positions.stride(d) and positions.shape[d] > 1 for d in dims):
        return lies_nowhere(registry, op, result)
    for dim in dims:
        positions = positions.narrow(dim, 0, 1)
    return positions.expand(result.shape)


RULES = by_names(
    {
        "mean sum amax amin max min var std logsumexp linalg_vector_norm norm prod nansum "
        "median nanmedian": _averaged,
        "mm bmm addmm baddbmm _addmm_activation linear matmul _int_mm": _product,
        "mv": _times_vector,
        "quantized::linear_dynamic quantized::linear_relu_dynamic "
        "quantized::linear_dynamic_fp16": _packed,
        "_cdist_forward _euclidean_dist cdist": _paired,
        "cumsum cumprod logcumsumexp cummax cummin cumsum_": _along,
        "_fft_r2c _fft_c2c _fft_c2r": _transformed,
        " ".join(HEADS_FIRST | TOKENS_FIRST): _attention,
    }
)
"""Rules by operator name."""
