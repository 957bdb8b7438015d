"""Methods through all layers (rollout), and what is like the query (cosines of keys and tokens)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from attnviz.attention.layer_input import LayerInput
from attnviz.attribution.head_fusion import Fusion, MergedHeads
from attnviz.attribution.vector_products import discarding, vec_mat, vec_rollout
from attnviz.errors import RecordingError, UsageError

HeadFusion = Literal["mean", "max", "min"]


def rollout(
    readings: Sequence[LayerInput], *, fusion: HeadFusion = "mean", discard: float = 0.0
) -> Tensor:
    """w·R, (windows, R, 1, keys), of attention that is multiplied through the layers.

        R = I
        for A in layers:                      # (heads, N, N)
            M = fusion(A, heads)              # mean, max or min
            M = M without its lowest entries  # the share `discard` of all N², but not class→class
            R = rownorm(M + I) @ R
        map = w @ R

    A row vector is multiplied back through the layers, w·Ā_L ⋯ Ā_1, in O(N) memory. A query that
    attends to nothing keeps its value. The queries of an attention pool at the end are not among
    the keys, so it has no I: w·M·R.

    Abnar & Zuidema 2020, 2005.00928; fusion and discard are those of vit-explain. `discard` drops
    the entries below the ⌊discard·N²⌋-th smallest of a layer, counted from 0; entries equal to it
    stay.

    Args:
        readings: layers, first to last.
        fusion: how heads become one matrix.
        discard: share of the entries of each matrix that are dropped.

    Raises:
        RecordingError: layers with different tokens.
        UsageError: an option that cannot be meant.
    """
    if fusion not in get_args(HeadFusion):
        raise UsageError(
            f"unknown fusion {fusion!r}; choose from {', '.join(get_args(HeadFusion))}"
        )
    layers, pool = split(readings)
    row = query_weights(readings)
    if pool is not None:
        row = vec_mat(fuse(pool, fusion, discard), row)
    for reading in reversed(layers):
        row = vec_rollout(fuse(reading, fusion, discard), row)
    return row[:, :, None]


def split(readings: Sequence[LayerInput]) -> tuple[list[LayerInput], LayerInput | None]:
    """Layers whose queries are their keys, and the attention pool after them if there is one.

    Raises:
        RecordingError: layers cannot be chained, because their tokens differ.
    """
    layers = list(readings)
    pool = layers.pop() if layers and not of_itself(layers[-1]) else None
    for reading in readings:
        same = reading.call.shape[0] == readings[0].call.shape[0] and torch.equal(
            reading.keys.cells, readings[0].keys.cells
        )
        if not same or (reading is not pool and not of_itself(reading)):
            raise RecordingError(
                "the tokens differ from layer to layer, so they cannot be merged; take --layers "
                "of one stage, or --method attention"
            )
    return layers, pool


def of_itself(reading: LayerInput) -> bool:
    """Whether queries and keys are the same tokens."""
    return torch.equal(reading.queries.cells, reading.keys.cells)


def fuse(reading: LayerInput, fusion: Fusion, discard: float = 0.0) -> MergedHeads:
    """The heads of a layer as one matrix; queries that take no part have rows of zeros.

    `discard` is the share of the lowest entries that are dropped; the entry of the class token for
    itself stays.

    Raises:
        UsageError: the share is not in 0 … 1.
    """
    if not 0 <= discard < 1:
        raise UsageError(f"discard {discard} is not a share; choose a number from 0 to 0.99")
    part = reading.queries.taking_part
    fused = MergedHeads(reading.call, fusion, None if bool(part.all()) else part)
    if not discard:
        return fused
    return discarding(fused, discard, ~reading.keys.on_picture[:, 0] & of_itself(reading))


def query_weights(readings: Sequence[LayerInput]) -> Tensor:
    """The weights of the queries, (windows, R, queries) float32, in the last layer."""
    return readings[-1].weights.to(torch.float32)


def equal_weights(reading: LayerInput) -> Tensor:
    """Equal weights of all queries that take part, (windows, 1, queries)."""
    part = reading.queries.taking_part.float()
    return (part / part.sum(-1, keepdim=True).clamp_min(1))[:, None]


def similarity(reading: LayerInput) -> Tensor:
    """cos(k_j, Σ_i w_i k_i) of each head, (windows, R, heads, keys).

        k = k of every head                   # (heads, keys, features)
        map = normed(w @ k) @ normed(k).T

    For a single query it is the cosine with the query's own key, so it is 1 at the query itself.
    Keys that heads share are repeated.

    Amir et al. 2021, 2112.05814: the keys of a ViT as descriptors of its patches.

    Raises:
        RecordingError: queries that are no keys.
    """
    _check(reading)
    call = reading.call
    keys = call.key.float().repeat_interleave(call.heads // call.key.shape[1], dim=1)
    return _cosines(reading, keys).transpose(1, 2)


def token_similarity(reading: LayerInput) -> Tensor:
    """cos(x_j, Σ_i w_i x_i) of the tokens after the layer, (windows, R, 1, keys).

        x = tokens after the layer            # (tokens, features)
        map = normed(w @ x) @ normed(x).T

    Amir et al. 2021, 2112.05814.

    Raises:
        RecordingError: queries that are no keys, or tokens that were not kept.
    """
    _check(reading)
    if reading.tokens is None:
        raise RecordingError("the tokens after this layer were not kept; take --method similarity")
    return _cosines(reading, reading.tokens.float()[:, None]).transpose(1, 2)


def _check(reading: LayerInput) -> None:
    if not of_itself(reading):
        raise RecordingError(
            "the queries of this layer are not its keys, so cosines do not apply; take "
            "--method attention"
        )


def _cosines(reading: LayerInput, features: Tensor) -> Tensor:
    """Cosines with the mean of the query, (windows, heads, R, keys), of (windows, heads, N, F)."""
    means = reading.weights.float()[:, None] @ features  # (windows, heads, R, F)
    if reading.key_cells:  # windows of one picture: a region may lie in several of them
        means = means.sum(0, keepdim=True)
    return F.normalize(means, dim=-1) @ F.normalize(features, dim=-1).transpose(-2, -1)
