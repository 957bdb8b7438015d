"""Watches PyTorch's dispatcher: runs every operator unchanged, and notes the attention calls."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording import kernels
from attnviz.recording.attention_tracker import AttentionTracker
from attnviz.recording.call_store import CallStore
from attnviz.recording.dispatching import OPAQUE, as_outside, backend, is_composite, is_wrapper
from attnviz.recording.kernels import KernelCall
from attnviz.recording.learning import Learner
from attnviz.recording.model_blocks import Blocks
from attnviz.recording.nested import NestedAttention
from attnviz.recording.operation import Operation, first, node_of
from attnviz.recording.output_nodes import OutputListener
from attnviz.recording.output_tracker import Outputs
from attnviz.recording.positions import TokenPositions
from attnviz.recording.positions.position_math import NOWHERE, compact
from attnviz.recording.recorded import Recording
from attnviz.recording.recurrences import STEPS, Recurrences
from attnviz.recording.value_sums import CallListener


class Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
        recording: Recording,
        blocks: Blocks | None,
        positions: Callable[[], TokenPositions] | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._store, self._unread, self._blocks = store, recording.unread, blocks
        self._operators, self._open_positions = recording.operators, positions
        self._positions: TokenPositions | None = None
        self._later: list[tuple[weakref.ref[Tensor], Tensor]] = []
        self.begun = False
        self.learner: Learner | None = None

    def _begin(self) -> None:
        """Make what follows the operators; a run that is watched lightly does without."""
        self.begun = True
        if self._open_positions is not None:
            self._positions = self._open_positions()
            self._positions.operators = self._operators
            self._positions.on_read = self._read
            self._store.named = self._positions.pictures.named
            for weak, positions in self._later:
                tensor = weak()
                if tensor is not None:
                    self._positions.put(tensor, positions.expand(tensor.shape))
        store = self._store
        self._outputs = Outputs(
            OutputListener(store.correct, store.project, store.scale, store.unpack, store.join)
        )
        listener = CallListener(
            self._found,
            store.drop,
            self._note,
            self._places,
            self._of_channels,
            self._positions is not None,
        )
        self._recurrences = Recurrences(self._note)
        self._nested = NestedAttention(self._note)
        self._follower = AttentionTracker(listener, self._outputs)

    def put_later(self, tensors: Sequence[Tensor], positions: Sequence[Tensor | None]) -> None:
        """Put positions of a model's result, in case that something follows."""
        for tensor, each in zip(tensors, positions, strict=True):
            if each is not None:
                self._later.append((weakref.ref(tensor), each))

    def positions_of(self, tensors: Sequence[Tensor]) -> list[Tensor | None]:
        """Positions of tensors, as small as they can be stored."""
        if self._positions is None:
            return [None] * len(tensors)
        found = [self._positions.get(tensor) for tensor in tensors]
        return [None if each is None else compact(each).clone() for each in found]

    def places_of(self, tokens: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Places (…, 2) of tokens (…, features), and numbers of their pictures; None if unknown.

        Numbers are None if there is one picture. A place is NaN for nowhere.
        """
        with _disable_current_modes():
            found = self._places(tokens.detach(), -1) if self.begun else None
            if found is None or self._positions is None:
                return None
            return self._positions.pictures.apart(torch.view_as_real(found.resolve_conj()))

    def follows(self, tensors: Sequence[Tensor]) -> bool:
        """Whether any of these tensors is an output of a call that may still be projected."""
        return any(self._outputs.node_of(tensor) is not None for tensor in tensors)

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
        if not self.begun:
            self._begin()
        if not isinstance(func, OpOverload):
            self._refuse(str(func))
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
                if func._schema.name.removeprefix("aten::") in OPAQUE:  # noqa: SLF001
                    self._refuse("PyTorch's fast path of a layer")
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
            self._refuse("a backward pass inside of the model")
            return op.func(*op.args, **op.kwargs)  # backward pass, or a recomputed checkpoint
        if nested:
            self._refuse("nested tensors")
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
        if self.learner is not None:
            self.learner.operation(op, result)
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
        call = _placed(call, [self._places(tensor, -1) for tensor in (query, key)], heads)
        if self.learner is not None:
            named = call if self._store.named is None else self._store.named(call)
            self.learner.kernel(named, trace.operator, trace.node)
        return self._store.add(call, trace, self._outputs.may_be_joined)

    def _found(
        self, call: AttentionCall, output: Tensor, places: Tensor | None, trace: Trace
    ) -> int:
        """Keep a call that the tracker found; its output has its queries' positions, if any."""
        if self._positions is not None and places is not None:
            self._positions.put_unless_nowhere(output, places)
        return self._store.add(call, trace, self._outputs.may_be_joined)

    def _refuse(self, what: str) -> None:
        if self.learner is not None:
            self.learner.refuse(what)

    def _read(self, tensor: Tensor) -> None:
        if self.learner is not None:
            self.learner.read(tensor)

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
