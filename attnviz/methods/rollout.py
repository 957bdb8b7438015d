"""Attention rollout: how attention flows through all layers."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

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
