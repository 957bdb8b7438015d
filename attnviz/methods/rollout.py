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

    It is a row vector that is carried back through the layers, w·Ā_L ⋯ Ā_1: O(N) memory. A query
    that attends to nothing keeps what it has. An attention pool at the end has tokens of its own
    that are not among the keys, and no I: w·M·R.

    Abnar & Zuidema 2020, 2005.00928; fusion and discard are those of vit-explain. With `discard`,
    entries below the ⌊discard·N²⌋-th smallest of a layer, counted from 0, are dropped; what ties
    with it stays.

    Args:
        readings: layers, first to last.
        fusion: how heads become one matrix.
        discard: share of the entries of each matrix that are dropped.

    Raises:
        RecordingError: layers with different tokens.
        UsageError: an option that cannot be meant.
    """
    if fusion not in get_args(HeadFusion):
        raise UsageError(f"fusion {fusion!r} is none; take {', '.join(get_args(HeadFusion))}")
    layers, pool = split(readings)
    row = query_weights(readings)
    if pool is not None:
        row = vec_mat(fuse(pool, fusion, discard), row)
    for reading in reversed(layers):
        row = vec_rollout(fuse(reading, fusion, discard), row)
    return row[:, :, None]


def split(readings: Sequence[LayerInput]) -> tuple[list[LayerInput], LayerInput | None]:
    """Layers whose queries are their keys, and the attention pool behind them if there is one.

    Raises:
        RecordingError: layers that do not follow one another: their tokens differ.
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

    `discard` is the share of its lowest entries that are dropped; the entry of a class token for
    itself stays.

    Raises:
        UsageError: a share that is not 0 … 1.
    """
    if not 0 <= discard < 1:
        raise UsageError(f"discard {discard} is no share; take 0 to 0.99")
    part = reading.queries.taking_part
    fused = MergedHeads(reading.call, fusion, None if bool(part.all()) else part)
    if not discard:
        return fused
    return discarding(fused, discard, ~reading.keys.on_picture[:, 0] & of_itself(reading))


def query_weights(readings: Sequence[LayerInput]) -> Tensor:
    """The weights of the questions, (windows, R, queries) float32: those of the last layer."""
    return readings[-1].weights.to(torch.float32)
