"""Watches a run of a model by its plan: takes its attention calls where they are made.

While a model runs, `F.scaled_dot_product_attention` is one that notes what it gets and returns, and
so are the blocks of the model, if they are asked for. Tensors are those of this run; what follows
from the model's program alone (positions, projections) is the plan's.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.kernels import as_it_is
from attnviz.recording.model_blocks import Block
from attnviz.recording.plan import (
    SDPA,
    PlannedBlock,
    RunPlan,
    as_numbers,
    attention_options,
    next_node,
    versions_of,
)

Attention = Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor]
"""Runs `F.scaled_dot_product_attention` with these arguments."""
_LOCK = threading.Lock()
_WATCHING: dict[int, Attention] = {}
"""What runs the function in each thread that is watched."""


def _attention(*args: Any, **kwargs: Any) -> Any:
    """`F.scaled_dot_product_attention` while any thread is watched."""
    attention = _WATCHING.get(threading.get_ident())
    return SDPA(*args, **kwargs) if attention is None else attention(args, kwargs)


def is_attention_free() -> bool:
    """Whether nobody else has replaced `F.scaled_dot_product_attention`."""
    current: Any = F.scaled_dot_product_attention
    return current is SDPA or current is _attention


@contextmanager
def attention_by(attention: Attention) -> Iterator[None]:
    """Inside this context, `attention` runs `F.scaled_dot_product_attention` in this thread.

    Somebody else's replacement of that function stays where it is.
    """
    thread = threading.get_ident()
    with _LOCK:
        before = _WATCHING.get(thread)  # of the recording that this one is inside of
        _WATCHING[thread] = attention
        if is_attention_free():
            F.scaled_dot_product_attention = _attention
    try:
        yield
    finally:
        with _LOCK:
            if before is None:
                del _WATCHING[thread]
            else:
                _WATCHING[thread] = before
            if not _WATCHING and is_attention_free():
                F.scaled_dot_product_attention = SDPA


@dataclass(eq=False)
class TakenCall:
    """An attention call of this run: the call, its trace, and what `describe` said of it.

    The call is None if it is not to be kept; if there is a `describe`, it has described it.
    """

    call: AttentionCall | None
    trace: Trace
    described: bool = False
    description: Any = None


class LightWatch:
    """Takes the attention calls and the blocks of a run.

    Args:
        plan: the plan.
        keep: for each call, whether to keep it.
        describe: called with calls that are not kept, in their final form.
        graph: whether blocks keep their graph.

    Attributes:
        calls: the calls so far.
        blocks: the blocks so far, by the number of their call.
        deviated: whether the model has left the plan.
    """

    def __init__(self, plan: RunPlan, keep: Sequence[bool], describe: Any, *, graph: bool) -> None:
        self.calls: list[TakenCall] = []
        self.blocks: dict[int, Block] = {}
        self.deviated = False
        self._plan, self._keep, self._describe, self._graph = plan, keep, describe, graph
        self._thread = threading.get_ident()
        self._tensors: list[Tensor] = []
        self._versions: list[int] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch this thread inside this context."""
        blocks = [(each.module(), number) for number, each in self._plan.blocks.items()]
        replaced: list[nn.Module] = []
        try:
            for module, number in blocks:
                if module is not None:
                    module.__dict__["forward"] = partial(self._block, number, module.forward)
                    replaced.append(module)
            with attention_by(self._attention):
                yield
        finally:
            for module in replaced:
                module.__dict__.pop("forward", None)

    def _attention(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Run `F.scaled_dot_product_attention` and take its call."""
        node = next_node()
        result: Tensor = SDPA(*args, **kwargs)
        if not self.deviated:
            with torch._C.DisableTorchFunction():  # noqa: SLF001
                self._take(args, kwargs, result, node)
        return result

    def _take(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor, node: int
    ) -> None:
        number = len(self.calls)
        if number == len(self._plan.calls):
            self.deviated = True
            return
        planned = self._plan.calls[number]
        (query, key, value, mask), options = attention_options(args, kwargs)
        if options != planned.options:
            self.deviated = True
            return
        offset = planned.node
        trace = Trace(planned.operator, None if offset is None else node + offset, as_it_is)
        if not self._keep[number] and self._describe is None:
            self.calls.append(TakenCall(None, trace))
            return
        bias = as_numbers(mask, query) if planned.converted else mask
        call = object.__new__(AttentionCall)  # its own way to set fields takes three times as long
        call.__dict__.update(
            planned.fields,
            query=query.detach(),
            key=key.detach(),
            value=value.detach(),
            bias=None if bias is None else bias.detach(),
            output=result.detach(),
            projection=self._projection(number),
        )
        if self._keep[number]:
            self._note(query, key, value, result, *(() if bias is None else (bias,)))
            self.calls.append(TakenCall(call, trace))
        else:
            self.calls.append(TakenCall(None, trace, True, self._describe(call)))

    def _projection(self, number: int) -> Tensor | None:
        """The projection of a call, with the factors on it."""
        found = None
        for source in self._plan.calls[number].projection:
            view = source.view()
            if view is None:
                self.deviated = True
                return None
            found = view if found is None else found * view
        return found

    def _block(self, number: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a block, and take what it got and returned; other threads may run it, too."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        tokens = next((each for each in args if isinstance(each, Tensor)), None)
        before = len(self.calls)
        result = forward(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # noqa: SLF001
            self._take_block(number, tokens, result, before)
        return result

    def _take_block(self, number: int, tokens: Tensor | None, result: Any, before: int) -> None:
        planned: PlannedBlock = self._plan.blocks[number]
        module = planned.module()
        as_planned = before == number == len(self.calls) - 1 and type(result) is planned.kind
        if module is None or tokens is None or not as_planned or number in self.blocks:
            self.deviated = True
            return
        output = result if isinstance(result, Tensor) else tree_leaves(result)[planned.place]
        self._note(tokens, output)
        if not self._graph:
            tokens, output = tokens.detach(), output.detach()
        self.blocks[number] = Block(module, tokens, output, planned.spec, planned.place)

    def _note(self, *tensors: Tensor) -> None:
        """Note how often the memory of what is kept was written to."""
        self._tensors += tensors
        self._versions += versions_of(tensors)

    def holds(self) -> bool:
        """Whether the whole run was as planned."""
        whole = len(self.calls) == len(self._plan.calls)
        return whole and len(self.blocks) == len(self._plan.blocks) and self.held_so_far()

    def held_so_far(self) -> bool:
        """Whether the model has not left the plan, and nobody wrote to what was taken."""
        return not self.deviated and self._versions == versions_of(self._tensors)
