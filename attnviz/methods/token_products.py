"""Methods from the tokens of layers and their gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnviz.attention.layer_input import LayerInput, TokenGradient
from attnviz.attribution.head_fusion import chunks
from attnviz.attribution.vector_products import vec_mat
from attnviz.errors import RecordingError
from attnviz.methods.rollout import equal_weights, fuse, query_weights, split

_ROWS = 256  # rows of gradients at once


def grad_cam(reading: LayerInput) -> Tensor:
    """relu(Σ_f w_f x_jf), w_f = mean_{i∈G} g_if, (windows, 1, 1, keys).

        x, g = tokens that enter the layer, and their gradient   # (tokens, features)
        map = relu(x @ g[grid].mean(0))

    Selvaraju et al. 2017, 1610.02391, with tokens as the places and features as the channels. The
    class token takes no part in the mean. The query has no effect.

    Raises:
        RecordingError: the layer was recorded without a score.
    """
    tokens, gradient = _entering(reading)
    grid = reading.keys.grid if bool(reading.keys.grid.any()) else reading.keys.taking_part
    share = grid / grid.sum(-1, keepdim=True).clamp_min(1)
    weights = torch.einsum("bn,bnf->bf", share.float(), gradient)
    return torch.einsum("bnf,bf->bn", tokens, weights).relu()[:, None, None]


def attcat(readings: Sequence[LayerInput]) -> Tensor:
    """Σ_l (x^l_j · g^l_j)·mean_h mean_i A^lh_ij, (windows, 1, 1, keys), with its sign.

        map = 0
        for x, g, A in layers:                # tokens after it, their gradient; (heads, N, N)
            map = map + (x * g).sum(-1) * mean(A, heads and queries)

    Qiang et al. 2022, AttCAT (NeurIPS). The query has no effect.

    Raises:
        RecordingError: layers have different tokens, or were recorded without a score.
    """
    layers, _ = split(readings)
    found = torch.zeros(1)
    for reading in layers:
        tokens, gradient = _given(reading.leaving)
        received = vec_mat(fuse(reading, "mean"), equal_weights(reading))[:, 0]
        found = found.to(tokens.device) + (tokens * gradient).sum(-1) * received
    return found[:, None, None]


def transition(readings: Sequence[LayerInput], *, steps: int = 20) -> Tensor:  # noqa: ARG001 — of the runs
    """The walk r ⊙ w·mean_h relu(∫∇A_L), (windows, R, 1, keys).

        r = w @ mean(A, heads)                # of the last layer
        for A in layers below, last to first:
            r = r @ mean(A, heads) + r
        map = r * (w @ mean(relu(mean of dA over the steps), heads))

    dA is the gradient at the last layer's weights in runs of the model on α·pixels, 0 < α < 1, at
    `steps` points of Gauss and Legendre with their weights.

    Yuan et al. 2021, Explaining Information Flow Inside Vision Transformers Using Markov Chain.

    Raises:
        RecordingError: layers have different tokens, or were recorded without such runs.
    """
    split(readings)
    *below, last = readings
    row = vec_mat(fuse(last, "mean"), query_weights(readings))
    for reading in reversed(below):
        row = row + vec_mat(fuse(reading, "mean"), row)
    return (row * _integral(last))[:, :, None]


def input_gradient(readings: Sequence[LayerInput], *, at: str = "tokens") -> Tensor:  # noqa: ARG001
    """Σ_f x_jf·g_jf of the tokens that enter the first layer, (windows, 1, 1, keys).

        map = (x * g).sum(-1)                 # g = d(score)/dx

    The score is that of the model as if it ended with the last layer. At `pixels`, x are the pixels
    of each token. The query has no effect.

    Shrikumar et al. 2016, 1605.01713.

    Raises:
        RecordingError: layers have different tokens, or were recorded without a score.
    """
    return _relevance(readings)


def integrated_gradients(
    readings: Sequence[LayerInput],
    *,
    steps: int = 20,  # noqa: ARG001 — of the runs, which were made before
    at: str = "tokens",  # noqa: ARG001
) -> Tensor:
    """Σ_f (x − x⁰)_jf·∫g_jf of the tokens that enter the first layer, (windows, 1, 1, keys).

        x0 = the tokens of a picture of zeros     # the mean colour, after normalisation
        map = ((x - x0) * mean of g at x0 + α(x - x0)).sum(-1)

    The mean is over `steps` points of Gauss and Legendre. Over all tokens the map sums to the score
    less that of x0. The query has no effect.

    Sundararajan et al. 2017, 1703.01365, at the tokens.

    Raises:
        RecordingError: layers have different tokens, or were recorded without such runs.
    """
    return _relevance(readings)


def _relevance(readings: Sequence[LayerInput]) -> Tensor:
    split(readings)
    relevance = readings[-1].relevance
    if relevance is None:
        raise RecordingError("no gradient was taken; observe with gradients, and ask for it")
    return relevance[:, None, None]


def _entering(reading: LayerInput) -> TokenGradient:
    found = _given(reading.entering)
    if found.tokens.shape[:2] != reading.keys.cells.shape:
        raise RecordingError(
            "the tokens that enter the block of this layer are not its keys; take --method "
            "gradient-attention"
        )
    return found


def _given(found: TokenGradient | None) -> TokenGradient:
    if found is None:
        raise RecordingError("tokens have no gradient; observe with gradients, and ask for it")
    return found


def _integral(reading: LayerInput) -> Tensor:
    """w·mean_h relu(Σ_k c_k ∇A^k), (windows, R, keys), of a layer in several runs."""
    if not reading.path:
        raise RecordingError("no runs on parts of the picture were made; observe with gradients")
    weights = reading.weights.float() * reading.queries.taking_part[:, None]
    found = weights.new_zeros(*weights.shape[:2], reading.call.shape[3])
    for rows in chunks(weights.flatten(0, 1).any(0).nonzero()[:, 0], _ROWS):
        numbers = rows.tolist()
        mean = sum(share * call.weight_gradient(numbers) for share, call in reading.path)
        assert isinstance(mean, Tensor)  # there is a run
        found += weights[:, :, rows] @ mean.relu().mean(1)
    return found
