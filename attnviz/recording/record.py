"""Records every attention call of a running model without changing the model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import JoinedTrace, Trace
from attnviz.errors import UsageError
from attnviz.recording import kernels
from attnviz.recording.attention_tracker import AttentionTracker
from attnviz.recording.call_store import CallStore
from attnviz.recording.dispatching import (
    OPAQUE,
    as_outside,
    backend,
    is_composite,
    is_wrapper,
    uncompiled,
)
from attnviz.recording.kernels import KernelCall
from attnviz.recording.model_blocks import Blocks
from attnviz.recording.nested import NestedAttention
from attnviz.recording.operation import Operation, first, node_of
from attnviz.recording.output_nodes import OutputListener
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.positions import TokenPositions
from attnviz.recording.positions.position_math import NOWHERE
from attnviz.recording.recorded import Recording
from attnviz.recording.recurrences import STEPS, Recurrences
from attnviz.recording.value_sums import CallListener


@contextmanager
def record(
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

    Args:
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
    positions = None if picture is None else _positions(picture, time, places)
    if positions is not None:
        recording.operators, store.named = positions.operators, positions.pictures.named
    try:
        with (
            nullcontext() if stack is None else stack.watching(),
            uncompiled(),
            _Watcher(store, recording.unread, positions, stack),
        ):
            yield recording
    finally:
        store.close()


def _positions(
    given: Tensor | Sequence[Tensor], time: int | None, places: Tensor | None
) -> TokenPositions:
    """The positions of the pictures to trace; refuses what has no height and width."""
    pictures = [given] if isinstance(given, Tensor) else list(given)
    if places is not None:
        if len(pictures) > 1 or time is not None or places.shape != pictures[0].shape:
            raise UsageError("places= has the shape of one tensor; give it as picture=, alone")
        return TokenPositions(*pictures, places=places)
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
    return TokenPositions(*pictures, time=None if time is None else time % pictures[0].ndim)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator unchanged, and notes the attention calls.

    Operators that consist of others (the fast paths of nn.TransformerEncoderLayer, and in inference
    mode every composite operator) run their own kernel, and the watcher sees the operators inside.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: the check would load the compiler, which takes as long as loading torch."""
        return False

    def __init__(
        self,
        store: CallStore,
        unread: list[str],
        positions: TokenPositions | None,
        blocks: Blocks | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._store, self._unread, self._positions = store, unread, positions
        self._blocks = blocks
        self._outputs = Outputs(
            OutputListener(store.correct, store.project, store.scale, store.unpack, store.join)
        )
        listener = CallListener(
            self._found,
            store.drop,
            self._note,
            self._places,
            self._of_channels,
            positions is not None,
        )
        self._recurrences = Recurrences(self._note)
        self._nested = NestedAttention(self._note)
        self._follower = AttentionTracker(listener, self._outputs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(map(is_wrapper, types)):
            return NotImplemented
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            result = func(*args, **kwargs)
            if str(func) == "flex_attention":
                call, trace = (
                    kernels.read_flex(args, result),
                    Trace(str(func), None, kernels.as_it_is),
                )
                self._outputs.fused(result[0], self._keep(call, trace, args[0], args[1]))
                places = self._places(args[0], -1)
                if self._positions is not None and places is not None:
                    self._positions.put(result[0], places[..., None])
            return result
        if is_composite(func):
            keys = backend(func, args)
            if keys is not None:
                with as_outside(), self:
                    return func.redispatch(keys, *args, **kwargs)
        return self._watched(Operation(func, args, kwargs))

    def _watched(self, op: Operation) -> Any:
        """Run an operation, and let all trackers see its arguments and its result."""
        nested = any(isinstance(tensor, Tensor) and tensor.is_nested for tensor in op.flat)
        for tensor in op.written:
            self._store.written(tensor)
            if self._blocks is not None:
                self._blocks.written(tensor)
        if torch._C._current_graph_task_id() != -1:  # noqa: SLF001
            return op.func(*op.args, **op.kwargs)  # backward pass, or a recomputed checkpoint
        if nested:
            return self._of_nested(op)
        afters = [self._follower.before(op), self._outputs.before(op)]
        if op.name in STEPS:
            afters.append(self._recurrences.before(op))
        node = node_of(op) if kernels.is_kernel(op.name) else None
        result = op.func(*op.args, **op.kwargs)
        if self._positions is not None:
            self._positions.follow(op, result)
        for after in afters:
            if after is not None:
                after(result)
        if kernels.is_kernel(op.name):
            self._kernel(op, result, node)
        elif (what := kernels.unknown(op.name)) is not None:
            self._note(what)
        return result

    def _of_nested(self, op: Operation) -> Any:
        """Run an operation on nested tensors, whose items are sequences of several lengths."""
        node = node_of(op)
        result = op.func(*op.args, **op.kwargs)
        if op.name in OPAQUE or "scaled_dot_product" in op.name:
            self._note(f"{op.name} of nested tensors")
            return result
        call = self._nested.follow(op, result)
        if self._positions is not None:
            self._positions.follow_items(op, result)
            if call is not None:
                self._positions.pack(call.query, call.found.query)
                self._positions.pack(call.key, call.found.key)
                self._positions.put_queries(result, call.query)
        if call is not None:
            self._keep_packed(call.found, Trace(op.name, node, call.found.lay))
        return result

    def _kernel(self, op: Operation, result: Any, node: int | None) -> None:
        """Record the call of a fused attention kernel that has run."""
        try:
            found = kernels.read(op, result)
        except NotImplementedError as reason:
            self._note(str(reason))
            return
        trace = Trace(op.name, node, found.lay)
        heads = 2 if op.name in kernels.TOKENS_FIRST else 1
        if found.packings is not None:
            self._keep_packed(found, trace)
            return
        number = self._keep(found.call, trace, found.query, found.key, heads)
        self._outputs.fused(first(result), number, heads)

    def _keep_packed(self, found: KernelCall, trace: Trace) -> None:
        """Keep a call over sequences of several lengths with the positions of their tokens."""
        assert found.packings is not None
        places = [
            self._places(tensor, -1, lay=partial(packing, fill=NOWHERE))
            for tensor, packing in zip((found.query, found.key), found.packings, strict=True)
        ]
        self._store.add(_placed(found.call, places, 1), trace, self._outputs.may_be_joined)

    def _keep(
        self, call: AttentionCall, trace: Trace, query: Tensor, key: Tensor, heads: int = 1
    ) -> int:
        """Keep a fused call with the positions of its tokens."""
        places = [self._places(tensor, -1) for tensor in (query, key)]
        return self._store.add(_placed(call, places, heads), trace, self._outputs.may_be_joined)

    def _found(
        self, call: AttentionCall, output: Tensor, places: Tensor | None, trace: Trace
    ) -> int:
        """Keep a call that the tracker found; its output has its queries' positions, if any."""
        if self._positions is not None and places is not None:
            self._positions.put_unless_nowhere(output, places)
        return self._store.add(call, trace, self._outputs.may_be_joined)

    def _note(self, what: str) -> None:
        if what not in self._unread:
            self._unread.append(what)

    def _of_channels(self, tensor: Tensor) -> bool:
        return self._positions is not None and self._positions.of_channels(tensor)

    def _places(self, tensor: Tensor, over: int, **options: Any) -> Tensor | None:
        return None if self._positions is None else self._positions.tokens(tensor, over, **options)


def _placed(call: AttentionCall, places: Sequence[Tensor | None], heads: int) -> AttentionCall:
    """A call with the positions of queries and keys; `heads` is their dimension of heads."""
    positions = [
        None if p is None else torch.view_as_real(p.select(heads, 0).resolve_conj()) for p in places
    ]
    return replace(call, query_positions=positions[0], key_positions=positions[1])
