"""Methods of one layer: raw attention, the smallest set of its mass, and weighting by values."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.attention.threads import in_order
from attnviz.errors import RecordingError, UsageError


def attention(reading: LayerInput) -> Tensor:
    """Σ_i w_i A_ij of each head, (windows, R, heads, keys).

        A = softmax(q @ k.T * scale + bias)   # (heads, queries, keys)
        map = w @ A

    w are the weights of the query: one token, or an average.

    Vaswani et al. 2017, 1706.03762, eq. 1.
    """
    return reading.received()


def received(reading: LayerInput) -> Tensor:
    """Mean over the queries i that take part of A_ij, (windows, 1, heads, keys).

        map = mean(A, queries)                # A: (heads, queries, keys)

    No query plays a role. A sink stands out (Gu et al. 2025, 2410.10781: α_j).
    """
    found = reading.sweep().received
    assert found is not None  # always requested
    # If windows are separate pictures, each has its own mean.
    alone = 1 if reading.key_cells else len(found)
    return found[:, :, :1].transpose(1, 2) * alone


def mass(reading: LayerInput, *, keep: float = 0.6) -> Tensor:
    """Σ_i w_i A_ij of each head, (windows, R, heads, keys); `smallest_set` then selects its cells.

    Raises:
        UsageError: a share that cannot be meant.
    """
    _check(keep)
    return reading.received()


def smallest_set(
    values: NDArray[np.float32], drawn: NDArray[np.bool_], *, keep: float = 0.6
) -> NDArray[np.float32]:
    """1 for the smallest set of drawn cells, heaviest first, that holds `keep` of the mass, else 0.

        order = argsort(-map)                 # over drawn cells, reading order among equals
        held = cumsum(map[order]) / sum(map)
        set = order up to the first with held >= keep

    Of 196 equal weights 0.6 keeps 118. A map without mass has an empty set.

    Caron et al. 2021, 2104.14294: the masks of its figures and of its Jaccard index.

    Args:
        values: (…, cells) weights, none negative where they are drawn.
        drawn: (cells,) boolean, the cells that count.
        keep: share of the mass, above 0, up to 1.

    Raises:
        UsageError: a share that cannot be meant.
    """
    _check(keep)
    weights = values[..., drawn].astype(np.float64)
    order = np.argsort(-weights, axis=-1, kind="stable")
    held = np.take_along_axis(weights, order, axis=-1).cumsum(-1)
    # Weights come from float32: 0.6 of ten equal ones is six, whatever the last digit says.
    before = np.concatenate([np.zeros_like(held[..., :1]), held[..., :-1]], axis=-1)
    inside = before < held[..., -1:] * (keep - 1e-6)
    chosen = np.zeros(weights.shape, dtype=np.float32)
    np.put_along_axis(chosen, order, inside.astype(np.float32), axis=-1)
    result = np.zeros(values.shape, dtype=np.float32)
    result[..., drawn] = chosen
    return result


def _check(keep: float) -> None:
    if not 0 < keep <= 1:
        raise UsageError(f"keep {keep} is not a share; choose a number above 0, up to 1")


KEYS = 256
"""Keys per step: transformed values of all heads take keys × heads × features."""
PAIRS = 1 << 20
"""Entries of A, of all heads, that are summed at once in float64."""


def value_norm(reading: LayerInput) -> Tensor:
    """Σ_i w_i α_ij‖f(v_j)‖ of each head, (windows, R, heads, keys), f(v) = v·W_O^h.

        f = v @ W_O                           # (heads, keys, features)
        map = w @ A * norm(f, features)

    W_O^h is the head's part of the output projection, LayerScale included, biases not.

    Kobayashi et al. 2020, 2004.10102.

    Raises:
        RecordingError: the output projection was not seen, or heads are mixed before it.
    """
    value, projection = _queries_that_see(reading.call)
    # ‖v·W‖ = ‖v·Lᵀ‖ for Wᵀ = Q·L: no features, and no squares of W that would cancel.
    lower = torch.linalg.qr(projection.transpose(1, 2), mode="r").R
    norms = torch.linalg.vector_norm(
        value @ lower.transpose(1, 2), dim=-1
    )  # (windows, heads, keys)
    found: Tensor = reading.received() * norms[:, None]
    return found


def value_norm_sum(reading: LayerInput) -> Tensor:
    """Σ_i w_i ‖Σ_h α_ij^h f(v_j^h)‖, (windows, R, 1, keys): heads are summed as vectors.

        f = v @ W_O                           # (heads, keys, features)
        G = f @ f.T                           # per key, (keys, heads, heads)
        map = w @ sqrt(A.T @ G @ A)           # A: (queries, keys, heads)

    Heads that write the same add up; heads that write the opposite cancel. The Gram matrices G of
    the keys replace the features: N·H² numbers, in float64, because they cancel too.

    Kobayashi et al. 2020, 2004.10102.

    Raises:
        RecordingError: the output projection was not seen, or heads are mixed before it.
    """
    call = reading.call
    value, projection = _queries_that_see(call)
    weights = reading.weights.float()
    found = weights.new_zeros(weights.shape[0], weights.shape[1], call.shape[3])
    for window in weights.flatten(1).any(1).nonzero()[:, 0].tolist():
        gram = _gram(value[window], projection)
        for each in _summed(call.batch(slice(window, window + 1)), weights[window], gram):
            found[window] += each
    return found[:, :, None]


def _summed(call: AttentionCall, weights: Tensor, gram: Tensor) -> Iterator[Tensor]:
    """Σ_i w_i ‖Σ_h α_ij^h f(v_j^h)‖ block of rows by block, (R, keys), of one window."""
    rows = weights.any(0).nonzero()[:, 0]
    jobs = torch.split(rows, max(1, PAIRS // (call.heads * call.shape[3])))

    def block(some: Tensor) -> Tensor:
        a = call.rows(some.tolist())[0].double()  # (heads, n, keys)
        return weights[:, some] @ _norms(a, gram).float()

    threads = torch.get_num_threads() if call.query.device.type == "cpu" else 1
    yield from in_order(block, jobs, threads=min(threads, len(jobs)))


def _queries_that_see(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Values of every head, (B, H, Nk, Dv), and their projections, (H, Dv, F), float32."""
    if call.projection is None:
        raise RecordingError("this layer's output projection was not seen; take --method attention")
    if call.mixing is not None:
        raise RecordingError(
            "this layer mixes its heads after the softmax, so no values are a head's own; take "
            "--method attention"
        )
    shared = call.heads // call.value.shape[1]
    value = call.value.detach().float().repeat_interleave(shared, dim=1)
    return value, call.projection.detach().float()


def _gram(value: Tensor, projection: Tensor) -> Tensor:
    """⟨f(v_j^h), f(v_j^g)⟩ of every key, (heads, heads, keys) in float64."""
    found = []
    for values in torch.split(value, KEYS, dim=1):  # (heads, some keys, Dv)
        f = torch.bmm(values, projection).transpose(0, 1).double()  # (keys, heads, F)
        found.append(torch.bmm(f, f.transpose(1, 2)))
    return torch.cat(found).permute(1, 2, 0).contiguous()


def _norms(a: Tensor, gram: Tensor) -> Tensor:
    """‖Σ_h α^h f^h‖, (n, keys), of (heads, n, keys)."""
    squares = torch.zeros_like(a[0])
    for h, of_head in enumerate(gram):
        beside = torch.zeros_like(squares)  # Σ_g α^g⟨f^h, f^g⟩, of each two heads once
        for g in range(h):
            beside.addcmul_(a[g], of_head[g], value=2)
        squares.addcmul_(a[h], beside.addcmul_(a[h], of_head[h]))
    return squares.clamp_min_(0).sqrt_()
