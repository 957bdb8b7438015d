"""Watches a run of a model by its plan: takes its attention calls, and checks that the plan holds.

Every function of PyTorch that the model calls is compared with the plan: the function, and which
tensors and values it gets. So whatever changes the model's way, whether a hook, another module, or a
flag that nobody knows of, is seen where it happens. Tensors are those of this run; what follows from
the program alone (positions, blocks, projections) is the plan's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnviz.attention.call import AttentionCall
from attnviz.attribution.call_gradients import Trace
from attnviz.recording.kernels import as_it_is
from attnviz.recording.model_blocks import Block
from attnviz.recording.plan import (
    ANY,
    Plan,
    Ref,
    Several,
    as_numbers,
    attention_options,
)

_MISSING = object()
_END: tuple[Any, ...] = (_MISSING, None, None, None, ())


@dataclass(eq=False)
class TakenCall:
    """An attention call of this run: the call, its trace, and what `describe` said of it.

    The call is None after it was described, if it is not to be kept.
    """

    call: AttentionCall | None
    trace: Trace
    described: bool = False
    description: Any = None
    tensors: Sequence[Tensor] = ()
    written: Sequence[int] = ()


class LightWatch(TorchFunctionMode):
    """Runs every function unchanged, compares it with the plan, and takes the calls.

    Args:
        plan: the plan.
        leaves: the tensors among the model's inputs.
        keep: whether to keep the call with this number.
        describe: called with calls that are not kept, in their final form.

    Attributes:
        deviated: whether the model has left the plan.
        calls: the calls so far.
    """

    def __init__(
        self,
        plan: Plan,
        leaves: Sequence[Tensor],
        keep: Sequence[bool],
        describe: Any,
    ) -> None:
        super().__init__()
        self.deviated = False
        self.calls: list[TakenCall] = []
        self._plan, self._keep, self._describe = plan, keep, describe
        self._steps = iter(plan.steps)
        self._tensors: dict[Ref, Tensor] = dict(zip(plan.inputs, leaves, strict=True))
        self._known = dict(plan.outside)
        self._known.update(zip(map(id, leaves), plan.inputs, strict=True))
        self._get = self._known.get
        self._graph = torch.is_grad_enabled()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        expected, compared, named, made, acts = next(self._steps, _END)
        if func is not expected and func != expected:
            self.deviated = True
        if self.deviated:
            return func(*args, **kwargs) if kwargs else func(*args)
        if compared is not None:
            get = self._get
            if len(args) != len(compared):
                self.deviated = True
            for value, as_before in zip(args, compared):  # noqa: B905 — compared just before
                if value is not as_before and get(id(value), _MISSING) is not as_before:
                    self._compare(value, as_before)
            if kwargs or named:
                self._compare_named(kwargs or {}, named)
        node = _next_node() if acts and self._graph else 0
        result = func(*args, **kwargs) if kwargs else func(*args)
        if made is not None:
            if made.__class__ is Ref:
                self._known[id(result)] = made
            else:
                result = self._note_several(result, made)
        for what, number, more in acts:
            self._act(what, number, more, args, kwargs or {}, result, node)
        return result

    def _compare(self, value: Any, as_before: Any) -> None:
        """Leave the plan if an argument differs from what it was."""
        kind = as_before.__class__
        if kind is Ref:
            same = as_before is ANY and isinstance(value, Tensor)
            self.deviated |= not (same or self._get(id(value)) is as_before)
        elif kind is Several:
            if value.__class__ not in {tuple, list} or len(value) != len(as_before.parts):
                self.deviated = True
                return
            for each, before in zip(value, as_before.parts, strict=True):
                self._compare(each, before)
        else:
            self.deviated |= value.__class__ is not kind or value != as_before

    def _compare_named(self, kwargs: Mapping[str, Any], named: Mapping[str, Any]) -> None:
        if kwargs.keys() != named.keys():
            self.deviated = True
            return
        for name, value in kwargs.items():
            self._compare(value, named[name])

    def _note_several(self, result: Any, made: Sequence[Ref | None]) -> Any:
        """Note several results; an iterator over tensors becomes another one."""
        several = result if isinstance(result, tuple | list) else tuple(result)
        if len(several) != len(made):
            self.deviated = True
        for each, ref in zip(several, made, strict=False):
            if ref is not None:
                self._known[id(each)] = ref
        return result if several is result else iter(several)

    def _act(
        self, what: str, number: Any, more: Any, args: Any, kwargs: Any, result: Any, node: int
    ) -> None:
        """Take what the plan says is here."""
        if self.deviated:
            return
        if what == "keep":
            several = more[1] is not None
            self._tensors[number] = result[more[1]] if several else result
        elif what == "call":
            self._take(number, args, kwargs, result, node)
        elif what == "done":
            self._finish(number)
        else:
            self._project(number, more.of(args, kwargs), scale=what == "scale")

    def _take(self, number: int, args: Any, kwargs: Any, result: Tensor, node: int) -> None:
        """Take an attention call."""
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
        bias = None if mask is None else as_numbers(mask, query) if planned.converted else mask
        tensors = [query.detach(), key.detach(), value.detach(), result.detach()]
        if bias is not None:
            tensors.append(bias.detach())
        call = AttentionCall(
            query=tensors[0],
            key=tensors[1],
            value=tensors[2],
            scale=planned.scale,
            bias=None if bias is None else tensors[4],
            causal=planned.causal,
            output=tensors[3],
            **planned.places,
        )
        self.calls.append(TakenCall(call, trace, tensors=tensors, written=_versions(tensors)))

    def _project(self, number: int, view: Tensor, *, scale: bool) -> None:
        """Set the projection of a call, or multiply it with factors over its features."""
        taken = self.calls[number]
        if taken.call is None:
            return
        before = taken.call.projection
        if scale:
            assert before is not None
            view = before * view
        object.__setattr__(taken.call, "projection", view)  # nobody has seen this call yet

    def _finish(self, number: int) -> None:
        """Describe a call in its final form, and let go of its tensors if it is not kept."""
        taken = self.calls[number]
        if taken.call is None or self._keep[number]:
            return
        if self._describe is not None:
            taken.description, taken.described = self._describe(taken.call), True
        taken.call, taken.tensors, taken.written = None, (), ()

    def check(self) -> bool:
        """Whether the whole run was as planned, and nobody wrote to what was taken."""
        if next(self._steps, None) is not None:
            self.deviated = True
        for taken in self.calls:
            if taken.written != _versions(taken.tensors):
                self.deviated = True
        return not self.deviated

    def blocks(self, *, graph: bool) -> dict[int, Block]:
        """The blocks of the run; with their graph, or without."""
        found = {}
        for number, (module, given, returned, spec, place) in self._plan.blocks.items():
            part = module()
            assert part is not None  # it has just run
            tokens = self._tensors[given], self._tensors[returned]
            given_tokens, output = tokens if graph else (each.detach() for each in tokens)
            found[number] = Block(part, given_tokens, output, spec, place)
        return found


def _versions(tensors: Sequence[Tensor]) -> Sequence[int]:
    """How often each tensor's memory was written to; nothing counts it in inference mode."""
    return [0 if each.is_inference() else each._version for each in tensors]  # noqa: SLF001


def _next_node() -> int:
    return torch.autograd._get_sequence_nr()  # type: ignore[attr-defined,no-any-return]  # noqa: SLF001
