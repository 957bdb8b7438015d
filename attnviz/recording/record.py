"""Watching a running model: every attention call it makes, with the model left as it is."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import JoinedTrace, Trace
from attnviz.recording import kernels
from attnviz.recording.attention_tracker import AttentionTracker, CallListener
from attnviz.recording.call_store import CallStore
from attnviz.recording.model_blocks import Blocks
from attnviz.recording.operation import Operation, first, node_of
from attnviz.recording.output_tracker import OutputListener, Outputs
from attnviz.recording.positions import TokenPositions
from attnviz.recording.recorded import Recording


@contextmanager
def record(
    *,
    calls: Sequence[int] | None = None,
    where: Callable[[AttentionCall], bool] | None = None,
    describe: Callable[[AttentionCall], Any] | None = None,
    device: str | torch.device | None = None,
    picture: Tensor | None = None,
    gradients: bool = False,
    blocks: nn.Module | None = None,
) -> Iterator[Recording]:
    """Record every attention call that a model makes in this thread.

    The model is not touched, its fused kernels stay on and compute what they compute without: the
    recording watches PyTorch's dispatcher. It sees `F.scaled_dot_product_attention`,
    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` with their fast paths, FlexAttention,
    flash-attn, xFormers, and attention written by hand as softmax(q·kᵀ)·v. Compiled models and
    FlexAttention run uncompiled meanwhile. What is kept of a call is q, k, v, bias and output,
    detached, and not copied unless the model overwrites it.

    Args:
        calls: numbers of the calls to keep, negative from the end; all unless given.
        where: calls for which it is False are neither counted nor kept.
        describe: asked of every call that counts, in its last form, kept or not; what it returns
            is in `Recording.descriptions`.
        device: where to keep them; where they are, unless given.
        picture: (B, 3, H, W) that the model is about to be given: calls then know where in it
            their tokens lie (`AttentionCall.query_positions`).
        gradients: note where in autograd's graph the calls stand, so that `Recording.gradients`
            can be asked; nothing of the graph is kept alive.
        blocks: the model, so that `Recording.blocks` has what the block of every call was given
            and what it returned: with their graph if `gradients` is on, which keeps it alive.

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
    positions = None if picture is None else TokenPositions(picture)
    if positions is not None:
        recording.operators = positions.operators
    try:
        with (
            nullcontext() if stack is None else stack.watching(),
            _uncompiled(),
            _Watcher(store, recording.unread, positions, stack),
        ):
            yield recording
    finally:
        store.close()


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled code runs as it was written; where nothing was compiled yet, nothing is loaded."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets every operator run as it is, and notes the attention calls.

    Operators that are made of others (the fast paths of nn.TransformerEncoderLayer, and in
    inference mode every composite) run their own kernel with the watcher on inside.
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: that would load the compiler, which takes as long as loading torch."""
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
            OutputListener(store.correct, store.project, store.scale, store.join)
        )
        listener = CallListener(self._found, self._note, self._places, self._of_channels)
        self._follower = AttentionTracker(listener, self._outputs)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if any(map(_is_wrapper, types)):
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
        if _is_composite(func):
            keys = _backend(args)
            if keys is not None:
                with _as_outside(), self:
                    return func.redispatch(keys, *args, **kwargs)
        return self._watched(Operation(func, args, kwargs))

    def _watched(self, op: Operation) -> Any:
        """Run an operation and learn from it."""
        if any(isinstance(tensor, Tensor) and tensor.is_nested for tensor in op.flat):
            if _is_attention(op.name):
                self._note(f"{op.name} of nested tensors")
            return op.func(*op.args, **op.kwargs)
        for tensor in op.written:
            self._store.written(tensor)
            if self._blocks is not None:
                self._blocks.written(tensor)
        if torch._C._current_graph_task_id() != -1:  # noqa: SLF001
            return op.func(*op.args, **op.kwargs)  # gradients, or a checkpoint computed once more
        afters = self._follower.before(op), self._outputs.before(op)
        node = node_of(op) if kernels.is_kernel(op.name) else None
        result = op.func(*op.args, **op.kwargs)
        if self._positions is not None:
            self._positions.follow(op, result)
        for after in afters:
            if after is not None:
                after(result)
        if kernels.is_kernel(op.name):
            self._kernel(op, result, node)
        elif kernels.is_unknown(op.name):
            self._note(f"{op.name}, which is not known")
        return result

    def _kernel(self, op: Operation, result: Any, node: int | None) -> None:
        """A fused attention kernel has run."""
        try:
            call, query, key = kernels.read(op, result)
        except NotImplementedError as reason:
            self._note(str(reason))
            return
        trace = Trace(op.name, node, kernels.layout(op))
        heads = 2 if op.name in kernels.TOKENS_FIRST else 1
        number = self._keep(call, trace, query, key, heads)
        self._outputs.fused(first(result), number, heads)

    def _keep(
        self, call: AttentionCall, trace: Trace, query: Tensor, key: Tensor, heads: int = 1
    ) -> int:
        """Keep a fused call, with where its tokens lie."""
        places = [self._places(tensor, -1) for tensor in (query, key)]
        found = [None if p is None else torch.view_as_real(p.select(heads, 0)) for p in places]
        call = replace(call, query_positions=found[0], key_positions=found[1])
        return self._store.add(call, trace, self._outputs.may_be_joined)

    def _found(
        self, call: AttentionCall, output: Tensor, places: Tensor | None, trace: Trace
    ) -> int:
        """A call was found by following; its output lies where its queries lie, or nowhere."""
        if self._positions is not None and places is not None:
            self._positions.put_unless_nowhere(output, places)
        return self._store.add(call, trace, self._outputs.may_be_joined)

    def _note(self, what: str) -> None:
        if what not in self._unread:
            self._unread.append(what)

    def _of_channels(self, tensor: Tensor) -> bool:
        return self._positions is not None and self._positions.of_channels(tensor)

    def _places(self, tensor: Tensor, over: int) -> Tensor | None:
        return None if self._positions is None else self._positions.tokens(tensor, over)


def _is_attention(name: str) -> bool:
    """Whether an operator is part of attention, as far as its name says."""
    return name in _OPAQUE or "softmax" in name or "scaled_dot_product" in name


@cache
def _is_wrapper(kind: type) -> bool:
    """Whether tensors of a kind take operators apart: those on what they are made of come next."""
    disabled = torch._C._disabled_torch_dispatch_impl  # noqa: SLF001
    return getattr(kind, "__torch_dispatch__", disabled) is not disabled


_OPAQUE = ("_transformer_encoder_layer_fwd", "_native_multi_head_attention")
_BACKENDS = {"cpu": "CPU", "cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}


def _as_outside() -> AbstractContextManager[Any]:
    """The dispatcher as it is outside of the watcher, where it resolves conjugates and knows views.

    Without, `matmul` in inference mode takes another way for weights that want gradients, and
    differs in the last digit.
    """
    exclude = torch._C._dispatch_tls_local_exclude_set()  # noqa: SLF001
    for name in ("ADInplaceOrView", "Conjugate", "Negative", "ZeroTensor"):
        exclude = exclude.remove(getattr(torch._C.DispatchKey, name))  # noqa: SLF001
    include = torch._C._dispatch_tls_local_include_set()  # noqa: SLF001
    guard: AbstractContextManager[Any] = torch._C._ForceDispatchKeyGuard(include, exclude)  # noqa: SLF001
    return guard


@cache
def _is_composite(func: OpOverload) -> bool:
    """Whether an operator is made of others that are worth watching.

    Not `narrow` or `chunk`: autograd keeps track of what they return, not of the views inside.
    """
    name = func._schema.name  # noqa: SLF001
    overload = func._schema.overload_name  # noqa: SLF001
    full = f"{name}.{overload}" if overload else name
    has = torch._C._dispatch_has_kernel_for_dispatch_key  # noqa: SLF001
    if name.removeprefix("aten::") in _OPAQUE:
        return True
    tracked = func.is_view and has(full, "ADInplaceOrView")
    return has(full, "CompositeImplicitAutograd") and not tracked


def _backend(args: Sequence[Any]) -> Any:
    """The dispatch key of the first tensor's device; None for tensors of unusual kinds."""
    flat = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else (arg,))]
    tensor = next((arg for arg in flat if isinstance(arg, Tensor)), None)
    if tensor is None or tensor.is_nested or tensor.layout != torch.strided:
        return None
    name = _BACKENDS.get(tensor.device.type)
    if name is None:
        return None
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))  # noqa: SLF001
