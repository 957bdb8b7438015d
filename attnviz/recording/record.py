"""Records every attention call of a running model without changing the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import JoinedTrace, Trace
from attnviz.errors import UsageError
from attnviz.recording.call_store import CallStore
from attnviz.recording.dispatching import uncompiled
from attnviz.recording.model_blocks import Blocks
from attnviz.recording.model_watch import ModelWatch
from attnviz.recording.positions import TokenPositions
from attnviz.recording.recorded import Recording
from attnviz.recording.watcher import Watcher


@contextmanager
def record(
    model: nn.Module | None = None,
    *,
    calls: Sequence[int] | None = None,
    where: Callable[[AttentionCall], bool] | None = None,
    describe: Callable[[AttentionCall], Any] | None = None,
    device: str | torch.device | None = None,
    picture: Tensor | Sequence[Tensor] | None = None,
    time: int | None = None,
    places: Tensor | None = None,
    gradients: bool = False,
    blocks: nn.Module | None = None,
) -> Iterator[Recording]:
    """Record every attention call that a model makes in this thread.

    The recording watches PyTorch's dispatcher. It does not change the model: fused kernels stay on
    and compute the same results. It sees `F.scaled_dot_product_attention`, `nn.MultiheadAttention`
    and `nn.TransformerEncoderLayer` with their fast paths, FlexAttention, flash-attn, xFormers, and
    attention that a model computes itself as softmax(q·kᵀ)·v. While it records, compiled models and
    FlexAttention run uncompiled. A call keeps q, k, v, bias and output, detached; they are copied
    only if the model overwrites them.

    Given the model, the first run for each shape of its inputs is recorded in this way, and attnviz
    learns from it where the calls are. Later runs are watched lightly and cost little more than the
    model alone; the recordings are the same. Where a model cannot be learnt, every run is recorded
    as the first one (docs/recording.md).

    Args:
        model: the model that is to run, if it runs several times.
        calls: numbers of the calls to keep, negative from the end; all by default.
        where: a condition; calls for which it is False are neither counted nor kept.
        describe: called with every call that counts, in its final form, whether it is kept or not;
            `Recording.descriptions` holds the results.
        device: the device to keep calls on; by default they stay where they are.
        picture: (B, 3, H, W), the model's input. Calls then have the positions of their tokens in
            this picture (`AttentionCall.query_positions`). Of a model of several pictures, a
            sequence of them; calls then have the numbers of these pictures, too
            (`AttentionCall.query_pictures`). A clip is (B, T, 3, H, W) or (B, 3, T, H, W), and
            these are then numbers of frames.
        time: the dimension of a clip's frames. By default it is 1 if dimension 2 has one or three
            channels, else 2. Tiles of one picture, (N, 3, H, W), are counted as frames are, with 0.
        places: of a `picture` that is no lattice of pixels, such as patches in a row, the place
            x + iy of each element, of its shape; NaN is nowhere. Positions are in its units.
        gradients: note the place of each call in autograd's graph, which `Recording.gradients`
            needs; this keeps no part of the graph alive.
        blocks: the model. `Recording.blocks` then holds the input and output of each call's block,
            with their graph if `gradients` is on, which keeps the graph alive.

    >>> with attnviz.record() as recording:
    ...     logits = model(pixels)
    >>> recording[-1].rows([0]).shape        # (batch, heads, 1, keys)
    torch.Size([1, 2, 1, 197])
    """
    calls_kept: list[AttentionCall | None] = []
    traces: list[Trace | JoinedTrace | None] = []
    stack = None if blocks is None else Blocks(blocks, calls_kept.__len__, graph=gradients)
    recording = Recording(calls_kept, traces if gradients else None, stack)
    numbers = None if calls is None else tuple(calls)
    store = CallStore(calls_kept, traces, recording.descriptions, numbers, where, device, describe)
    pictures = [picture] if isinstance(picture, Tensor) else list(picture or ())
    positions = _positions(pictures, time, places) if pictures else None
    watcher = Watcher(store, recording, stack, positions)
    recording.places_of = watcher.places_of
    learns = model is not None and where is None and places is None and blocks in {None, model}
    try:
        with (
            nullcontext() if stack is None else stack.watching(),
            uncompiled(),
            watcher,
            ModelWatch(model, watcher, store, recording, stack, pictures, time).entered()
            if model is not None and learns
            else nullcontext(),
        ):
            yield recording
    finally:
        store.close()


def _positions(
    pictures: Sequence[Tensor], time: int | None, places: Tensor | None
) -> Callable[[], TokenPositions]:
    """Makes the positions of the pictures to trace; refuses what has no height and width."""
    if places is not None:
        if len(pictures) > 1 or time is not None or places.shape != pictures[0].shape:
            raise UsageError("places= has the shape of one tensor; give it as picture=, alone")
        return partial(TokenPositions, *pictures, places=places)
    if len(pictures) == 1 and pictures[0].ndim == 5 and time is None:
        time = 1 if pictures[0].shape[2] in (1, 3) else 2
    if time is not None and len(pictures) > 1:
        raise UsageError("time= is of one clip; leave it out, or give one tensor as picture=")
    for picture in pictures:
        if picture.ndim < 3:
            raise UsageError(
                f"picture= has shape {tuple(picture.shape)}: flat patches have no places; give "
                "their places=, or the picture (B, 3, H, W), and make patches inside of record()"
            )
    return partial(
        TokenPositions, *pictures, time=None if time is None else time % pictures[0].ndim
    )
