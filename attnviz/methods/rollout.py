"""Attention rollout: how attention flows through all layers."""

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor

from attnviz.attention.carry import vec_mat, vec_rollout
from attnviz.attention.layer_input import LayerInput
from attnviz.errors import UsageError
from attnviz.methods.merging import asked, fuse, split

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
    row = asked(readings)
    if pool is not None:
        row = vec_mat(fuse(pool, fusion, discard), row)
    for reading in reversed(layers):
        row = vec_rollout(fuse(reading, fusion, discard), row)
    return row[:, :, None]
