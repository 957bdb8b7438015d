"""Methods from attention and its gradient: which weights raise a score."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution.head_fusion import Fusion
from attnviz.attribution.vector_products import mat_vec, vec_mat
from attnviz.errors import RecordingError
from attnviz.methods.rollout import equal_weights, fuse, query_weights, split


def gradient_attention(reading: LayerInput) -> Tensor:
    """Σ_i w_i mean_h relu(A⊙∇A)_ij of one layer, (windows, R, 1, keys).

        M = mean(relu(A * dA), heads)         # A, dA: (heads, queries, keys)
        map = w @ M

    ∇A = dO·Vᵀ is the gradient of a score at the weights.

    Chefer et al. 2021, 2103.15679, eq. 5, of one layer.

    Raises:
        RecordingError: the layer was recorded without a score.
    """
    return vec_mat(fuse(reading, "positive"), reading.weights)[:, :, None]


def gradient_rollout(readings: Sequence[LayerInput], *, discard: float = 0.0) -> Tensor:
    """w·R, (windows, R, 1, keys): rollout of the weights that raise a score.

        R = I
        for A, dA in layers:                  # (heads, N, N)
            M = relu(mean(A * dA, heads))
            M = M without its lowest entries  # the share `discard` of all N², but not class→class
            R = (M + I) / 2 @ R
        map = w @ R

    The formula of vit-explain (Gildenblat 2020), but for its division of columns by the sums of
    rows (its issue 16), which is left out: M is not a matrix of probabilities. An attention pool at
    the end has no I: w·M·R.

    Args:
        readings: layers, first to last.
        discard: share of the entries of each matrix that are dropped, as in `rollout`.

    Raises:
        RecordingError: layers with different tokens, or recorded without a score.
        UsageError: a share that cannot be meant.
    """
    layers, pool = split(readings)
    row = query_weights(readings)
    if pool is not None:
        row = vec_mat(fuse(pool, "signed", discard), row)
    for reading in reversed(layers):
        row = vec_mat(fuse(reading, "signed", discard), row).add_(row).div_(2)
    return row[:, :, None]


def relevance(readings: Sequence[LayerInput]) -> Tensor:
    """w·(R − I), (windows, R, 1, keys): how much each token matters to a score.

        R = I
        for A, dA in layers:                  # (heads, N, N)
            R = R + mean(relu(A * dA), heads) @ R
        map = w @ (R - I)

    For a class token, the map on the grid is the paper's R[0]. For a query on the grid, the query
    token's own 1 would dominate the map, so I is subtracted. For an attention pool at the end,
    whose queries are not keys, it is R_sq by eqs. 8 to 11 with R_ss = I:

        S = R - I
        map = w @ mean(relu(A * dA), heads) @ (S / rowsums(S) + I)

    where a row of S without any relevance is left out. It takes O(N) memory: rowsums(S) is the
    vector 1 multiplied forward through the layers, and the map is a row multiplied back.

    Chefer et al. 2021, 2103.15679.

    Raises:
        RecordingError: layers with different tokens, or recorded without a score.
    """
    layers, pool = split(readings)
    row = query_weights(readings)
    if pool is None:
        return _gained(layers, row)[:, :, None]
    row = vec_mat(fuse(pool, "positive"), row)
    total = _totals(layers, row)[:, None]
    return (row + _gained(layers, torch.where(total > 0, row / total, 0.0)))[:, :, None]


def attribution(readings: Sequence[LayerInput]) -> Tensor:
    """w·(R − I), (windows, R, 1, keys): rollout of the relevance of attention that raises a score.

        R = I
        for RA, dA in layers:                 # (heads, N, N); RA: relevance of A, by LRP
            R = R + mean(relu(dA * RA), heads) @ R
        map = w @ (R - I)

    RA = A⊙(S·Vᵀ)/2 with S = R_out/out, the relevance of the attention's output divided by it. It
    goes back from the score by the rules of `attribution.relevance_rules`. As in `relevance` the
    query's own 1 is left out. An attention pool at the end has no I: w·M·R.

    Chefer et al. 2021, 2012.09838.

    Raises:
        RecordingError: layers with different tokens, recorded without a score, or whose heads are
            mixed.
    """
    layers, pool = split(readings)
    for reading in readings:
        if reading.call.relevance is None or reading.call.mixing is not None:
            why = "heads are mixed" if reading.call.mixing is not None else "no relevance was found"
            raise RecordingError(f"{why} in layer {reading.number}; take --method relevance")
    row = query_weights(readings)
    if pool is None:
        return _gained(layers, row, "relevance")[:, :, None]
    row = vec_mat(fuse(pool, "relevance"), row)
    return (row + _gained(layers, row, "relevance"))[:, :, None]


def _gained(layers: Sequence[LayerInput], row: Tensor, fusion: Fusion = "positive") -> Tensor:
    """r·(R − I): the relevance that r gets beside itself, (B, R, N)."""
    gained = torch.zeros_like(row)
    for reading in reversed(layers):
        gained = gained + vec_mat(fuse(reading, fusion), row + gained)
    return gained


def _totals(layers: Sequence[LayerInput], row: Tensor) -> Tensor:
    """(R − I)·1, (B, N)."""
    gained = torch.zeros_like(row[:, 0])
    for reading in layers:
        gained = gained + mat_vec(fuse(reading, "positive"), gained + 1)
    return gained


def legrad(readings: Sequence[LayerInput]) -> Tensor:
    """mean_l mean_h mean_i relu(∂s^l/∂A^l)_ij, (windows, 1, 1, keys).

        E = 0
        for dA in layers:                     # (heads, queries, keys), of each layer's own score
            E = E + mean(relu(dA), heads and queries)
        map = E / len(layers)

    The score s^l is computed from the tokens of layer l. The mean is over all queries that take
    part, so the query has no effect.

    Bousselham et al. 2024, 2404.03214.

    Raises:
        RecordingError: layers with different tokens, or recorded without a score.
    """
    layers, pool = split(readings)
    every = [*layers, *([] if pool is None else [pool])]
    maps = [vec_mat(fuse(reading, "gradient"), equal_weights(reading)) for reading in every]
    return torch.stack(maps).mean(0)[:, :, None]


def attnlrp(
    readings: Sequence[LayerInput],
    *,
    rule: str = "epsilon",  # noqa: ARG001 — of the backward pass, which was made before
    gamma: float | None = None,  # noqa: ARG001
    at: str = "tokens",  # noqa: ARG001
) -> Tensor:
    """R_j of the tokens that enter the first layer, (windows, 1, 1, keys), with their sign.

        g = d(score)/dx, but on the way back:
            g * f(x) / x                      # through GELU, SiLU … of elements, not g * f'(x)
            g / 2                             # to both factors of Q @ K.T, A @ V and gates
            σ and norms in a denominator are constants
        map = (x * g).sum(-1)                 # (tokens, features) → (tokens,)

    This is AttnLRP with the ε-rule for all linear maps, ε → 0. The paper uses the γ-rule for those
    of vision transformers: `gamma`. With `cp` and `libra` attention weights are constants; `libra`
    adds the share of biases. `attribution.propagate` has the rules. The score is that of the model
    as if it ended with the last layer; the query has no effect.

    Achtibat et al. 2024, 2402.05602.

    Raises:
        RecordingError: layers have different tokens, or relevance was not propagated.
    """
    split(readings)
    relevance = readings[-1].relevance
    if relevance is None:
        raise RecordingError("no relevance was propagated; observe with gradients, and ask for it")
    return relevance[:, None, None]
