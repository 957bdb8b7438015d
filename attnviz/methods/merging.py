"""What methods that merge layers share: layers of the same tokens, an attention pool last."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnviz.attention.carry import discarding
from attnviz.attention.head_fusion import Fusion, MergedHeads
from attnviz.attention.layer_input import LayerInput
from attnviz.errors import RecordingError, UsageError


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


def asked(readings: Sequence[LayerInput]) -> Tensor:
    """The weights of the questions, (windows, R, queries) float32: those of the last layer."""
    return readings[-1].weights.to(torch.float32)
