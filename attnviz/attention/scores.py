"""Scores of chosen queries; only this file applies scale, bias, causality and groups."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from attnviz.attention.call_tensors import CallTensors
from attnviz.errors import RecordingError

FLOOR = -1e30
"""The score of a masked pair: finite, so that 0 · score is 0."""


LOG2E = math.log2(math.e)
"""The factor to scores in units of ln 2, for exp2, which is the fastest exponential."""


def scores(
    call: CallTensors, queries: Tensor, unit: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """unit·(scale·q·kᵀ + bias) of chosen queries in float32, (B, H, len(queries), Nk).

    `queries` are query numbers. The score is `FLOOR` if a key takes no part. `out` is a buffer of
    the result's shape.
    """
    query = call.query[:, :, queries].float() * (call.scale * unit)
    result = _products(query, call.key, out)
    bias = bias_rows(call.bias, queries)
    if bias is not None and bias.dtype == torch.bool:
        result.masked_fill_(~bias, FLOOR)
    elif bias is not None:
        # A very low finite bias takes part, as in the fused kernel; −∞ does not.
        result.add_(bias.float(), alpha=unit).clamp_(min=0.4 * FLOOR)
        result.masked_fill_(bias.isneginf(), FLOOR)
    if call.causal:
        later = torch.arange(call.key.shape[2], device=queries.device) > queries[:, None]
        result.masked_fill_(later, FLOOR)
    return result


def weight_gradients(call: CallTensors, queries: Tensor, out: Tensor | None = None) -> Tensor:
    """∇A of chosen queries, dO·vᵀ in float32, (B, H, len(queries), Nk).

    If heads are mixed after the softmax, this is Σ_g weight[g, h]·∇A'_g, with ∇A' of the mixed
    weights. `out` is a buffer of the result's shape, used if there is no mixing.

    Raises:
        RecordingError: the call has no gradient.
    """
    if call.gradient is None:
        raise RecordingError("this layer has no gradient of a score; record with gradients=True")
    rows = call.gradient[:, :, queries].float()
    if call.mixing is None:
        return _products(rows, call.value, out)
    return torch.einsum("gh,bgij->bhij", call.mixing[0].float(), _products(rows, call.value))


def _products(rows: Tensor, columns: Tensor, out: Tensor | None = None) -> Tensor:
    """rows·columnsᵀ in float32, (B, H, n, Nk), from (B, H, n, D) and (B, Hk, Nk, D)."""
    batch, heads, count, dim = rows.shape
    _, groups, keys, _ = columns.shape
    # The heads of a group share their keys, so one product computes all of their rows.
    into = None if out is None else out.view(batch * groups, -1, keys)
    of_keys = columns.float().flatten(0, 1).transpose(1, 2)
    found = torch.bmm(rows.reshape(batch * groups, -1, dim), of_keys, out=into)
    return found.view(batch, heads, count, keys)


def rows(call: CallTensors, queries: Tensor) -> Tensor:
    """The softmax of `scores`, (B, H, len(queries), Nk); a row without any key is 0."""
    s = scores(call, queries)
    return s.softmax(-1).masked_fill_(s <= FLOOR / 2, 0.0)


def bias_rows(bias: Tensor | None, queries: Tensor | slice) -> Tensor | None:
    """The rows of a bias, (…, 1 or Nq, Nk), that belong to chosen queries."""
    return bias if bias is None or bias.ndim < 2 or bias.shape[-2] == 1 else bias[..., queries, :]


@contextmanager
def float32_no_grad(tensor: Tensor) -> Iterator[None]:
    """Compute in float32 and without gradients, inside any autocast or grad mode of the caller."""
    with torch.no_grad(), torch.autocast(tensor.device.type, enabled=False):
        yield
