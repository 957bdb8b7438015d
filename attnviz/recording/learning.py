"""Learns the plan of a model while the full watcher records it for the first time.

A function mode sees the functions of PyTorch that the model calls, in order; the watcher tells
which operators run inside of them. Together they show whether a later run can be watched lightly:
whether every call is one of `F.scaled_dot_product_attention`, and whether anything that the model
does depends on the values of tensors.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attnviz.attention.call import AttentionCall
from attnviz.recording.operation import Operation
from attnviz.recording.outside import HOOKS, is_foreign, tree_of
from attnviz.recording.plan import (
    KINDS,
    SCALARS,
    SDPA,
    FunctionCall,
    ParameterView,
    PlannedBlock,
    PlannedCall,
    Ref,
    RunPlan,
    Several,
    as_numbers,
    attention_options,
    next_node,
    versions,
    versions_of,
)
from attnviz.recording.tensor_registry import TensorRegistry, shares_memory
from attnviz.recording.variables import Variables

_ESCAPES = frozenset(
    (
        *("numpy", "tolist", "item", "__array__", "__bool__", "__int__", "__float__", "__index__"),
        *("__complex__", "__contains__", "data_ptr", "__dlpack__", "untyped_storage", "storage"),
        *("_typed_storage", "apply_", "map_", "map2_", "equal", "allclose", "is_nonzero"),
        *("__deepcopy__", "__reduce_ex__", "as_subclass", "__repr__", "__format__", "backward"),
    )
)
"""Functions by which values of tensors come into Python, where they may decide what runs."""
_VALUES = frozenset(
    (
        *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "resize_"),
        *("_unique2", "unique_dim", "unique_consecutive", "bincount", "repeat_interleave", "set_"),
    )
)
"""Operators whose result is a number, or has a shape that depends on values."""
_ORDERS = frozenset(("sort", "topk", "kthvalue", "mode", "argsort", "msort"))
"""Operators that order elements by their values."""
_PLACES = ("query_positions", "key_positions", "query_pictures", "key_pictures")
_OTHER = (
    *SCALARS, torch.memory_format, torch.layout, torch.Size, type, slice,
)  # fmt: skip


class Learner(TorchFunctionMode):
    """Watches one run of a model, and makes its plan; `forward` is one that the model was given.

    Attributes:
        reason: why there is no plan; None if there may be one.
    """

    def __init__(
        self, module: nn.Module, leaves: Sequence[Tensor], forward: Any, *, traced: bool
    ) -> None:
        super().__init__()
        self.reason: str | None = None
        self._module, self._leaves, self._traced = module, leaves, traced
        self._steps: list[FunctionCall] = []
        own = [*module.parameters(), *module.buffers()]
        self._outside = {id(tensor): Ref() for tensor in own}
        self._cards = frozenset(each.device for each in own if each.is_cuda)
        self._inputs = tuple(Ref() for _ in leaves)
        self._known = self._outside | dict(zip(map(id, leaves), self._inputs, strict=True))
        self._calls: list[PlannedCall] = []
        self._places: list[Tensor] = []
        self._projections: dict[int, list[ParameterView]] = {}
        self._blocks: dict[int, PlannedBlock] = {}
        self._entered = False
        self._found: list[tuple[AttentionCall, str, int | None]] = []
        self._aside, self._by_value = False, False
        self._of_picture: TensorRegistry[bool] = TensorRegistry()
        for leaf in leaves:
            self._of_picture.put(leaf, True)
        self._variables, self._forward = Variables(module, forward), forward
        if self._variables.random:
            self.refuse("random numbers that PyTorch does not draw")
        self._before = self._facts()

    def refuse(self, reason: str) -> None:
        """Say why there is no plan."""
        self.reason = self.reason or reason

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside this context, functions are those of attnviz and no part of the model."""
        before, self._aside = self._aside, True
        try:
            yield
        finally:
            self._aside = before

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.reason is not None or self._aside:
            return func(*args, **kwargs)
        if getattr(func, "__name__", "") in _ESCAPES:
            self.refuse(f"{func.__name__} tells Python the values of a tensor")
        compared = tuple(map(self._compared, args))
        named = {name: self._compared(kwargs[name]) for name in kwargs}
        self._entered = True
        try:
            result = func(*args, **kwargs)
        finally:
            self._entered = False
        if func is Tensor.__iter__:
            result = tuple(result)
        self._steps.append(FunctionCall(func, compared, named, self._refs(result)))
        return iter(result) if func is Tensor.__iter__ else result

    def _compared(self, value: Any) -> Any:
        """An argument as later runs are compared with it."""
        kind = value.__class__
        if kind in KINDS:
            found = self._known.get(id(value))
            if found is None:
                self.refuse("a tensor comes from outside of the model")
            return found
        if kind in {tuple, list}:
            parts = tuple(map(self._compared, value))
            return Several(parts) if any(isinstance(p, Ref | Several) for p in parts) else value
        if kind not in _OTHER:
            self.refuse(f"an argument of type {kind.__name__}")
        return value

    def _refs(self, result: Any) -> Any:
        """What stands for a result, or for each of several."""
        if isinstance(result, tuple | list):
            return tuple(map(self._ref, result))
        return self._ref(result)

    def _ref(self, result: Any) -> Ref | None:
        if result.__class__ not in KINDS:
            if isinstance(result, Tensor):
                self.refuse(f"a tensor of type {type(result).__name__}")
            return None
        found = self._known[id(result)] = Ref()
        return found

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """Run `F.scaled_dot_product_attention`, and note its call."""
        self._found.clear()
        first_node = next_node()
        result: Tensor = SDPA(*args, **kwargs)
        with self.aside():  # what is compared here is no part of the model
            if len(self._found) == 1:
                self._note(args, kwargs, result, first_node)
            else:
                self.refuse("no fused kernel, or several")
        return result

    def _note(self, args: Any, kwargs: Mapping[str, Any], result: Tensor, first_node: int) -> None:
        """Note an attention call, if all that it holds is in the function's arguments."""
        call, operator, node = self._found.pop()
        (query, key, value, mask), options = attention_options(args, kwargs)
        same = (call.query, query), (call.key, key), (call.value, value), (call.output, result)
        converted = mask is not None and mask.dtype == torch.bool
        if converted and call.bias is not None and call.bias.dtype != torch.bool:
            mask = as_numbers(mask, query)
        else:
            converted = False
        if not all(_is_same(*pair) for pair in same) or not _has_values(call.bias, mask):
            self.refuse("a kernel that got something else than the function")
            return
        said = {each.name: getattr(call, each.name) for each in fields(call)}
        said |= {name: self._shared(said[name]) for name in _PLACES if said[name] is not None}
        said |= dict.fromkeys(("query", "key", "value", "bias", "output"))
        offset = None if node is None else node - first_node
        self._calls.append(PlannedCall(options, said, converted, operator, offset))

    def _shared(self, places: Tensor) -> Tensor:
        """A copy of positions; calls whose tokens lie alike share one."""
        for each in self._places:
            alike = each.shape == places.shape and each.dtype == places.dtype
            if alike and bool(((each == places) | (each.isnan() & places.isnan())).all()):
                return each
        self._places.append(places.clone())
        return self._places[-1]

    def kernel(self, call: AttentionCall, operator: str, node: int | None) -> None:
        """Note that a fused kernel ran."""
        self._found.append((call, operator, node))

    def projected(self, number: int, view: Tensor, *, factor: bool = False) -> None:
        """Note the projection of a call, or a factor on it: it must be a view of a parameter."""
        for part in self._module.modules():
            for name, each in part._parameters.items():  # noqa: SLF001
                if each is None or each.dtype != view.dtype or not shares_memory(each, view):
                    continue
                offset = int(view.storage_offset() - each.storage_offset())
                sources = self._projections.setdefault(number, [])
                if factor == bool(sources):  # of several projections the first one counts
                    where = view.shape, view.stride(), offset, (each.shape, each.stride())
                    sources.append(ParameterView(weakref.ref(part), name, *where))
                return
        self.refuse("a projection that is no parameter")

    def block(self, number: int, block: Any, result: Any) -> None:
        """Note the block of a call."""
        facts = block.module.__dict__
        if "forward" in facts or facts["_forward_hooks"] or facts["_forward_pre_hooks"]:
            self.refuse("a block with hooks")
        module = weakref.ref(block.module)
        if any(each.module is module for each in self._blocks.values()):
            self.refuse("a block that runs several times")
        self._blocks[number] = PlannedBlock(module, type(result), block.spec, block.place)

    def operation(self, op: Operation, result: Any) -> None:
        """Look at an operator of the run: whether its result may differ with values."""
        if self._aside or self.reason is not None:
            return
        if not self._entered:
            self.refuse(f"{op.name} runs outside of PyTorch's functions")
        tensors = [each for each in op.flat if isinstance(each, Tensor)]
        masks = op.name == "index" and any(each.dtype == torch.bool for each in tensors[1:])
        if masks or op.name in _VALUES:
            self.refuse(f"the result of {op.name} depends on values")
        if not self._traced:
            return
        if op.name in _ORDERS or op.name.startswith("grid_sampler"):
            self.read(tensors[-1])
        if not op.is_pointwise:
            for each in tensors[1:]:
                if not (each.is_floating_point() or each.is_complex()):
                    self.read(each)
        if any(map(self._depends, tensors)):
            made = result if isinstance(result, tuple | list) else (result,)
            for each in (*made, *op.written):
                if isinstance(each, Tensor):
                    self._of_picture.put(each, True)

    def read(self, tensor: Tensor) -> None:
        """Note that positions depend on the values of a tensor."""
        if self._depends(tensor):
            self.refuse("places that depend on values")
        self._by_value = True

    def _depends(self, tensor: Tensor) -> bool:
        return next(self._of_picture.of_storage(tensor), None) is not None

    def _facts(self) -> Any:
        """What a run must not change: inputs, weights, and what modules hold."""
        facts = tree_of(self._module), HOOKS.of(self._module)
        return versions_of(self._leaves), versions(self._module), facts

    @property
    def count(self) -> int:
        """Number of attention calls so far."""
        return len(self._calls)

    def plan(self, operators: Sequence[str], positions: Sequence[Tensor | None]) -> RunPlan | None:
        """The plan, after the run; None if there is none. `positions` are those of the result."""
        if self._facts() != self._before or self._variables.changed():
            self.refuse("the model changes itself")
        if self.reason is not None:
            return None
        calls = [
            replace(call, projection=tuple(self._projections.get(number, ())))
            for number, call in enumerate(self._calls)
        ]
        return RunPlan(
            calls,
            self._blocks,
            tuple(operators),
            positions,
            versions(self._module) if self._by_value else None,
            self._steps,
            self._inputs,
            self._outside,
            self._variables,
            self._forward is not None or is_foreign(self._module),
            self._cards,
        )


def _is_same(one: Tensor | None, other: Any) -> bool:
    """Whether two tensors are the same elements of the same memory."""
    if one is None or not isinstance(other, Tensor) or not shares_memory(one, other):
        return False
    place, place_too = (
        (each.shape, each.stride(), each.storage_offset(), each.dtype) for each in (one, other)
    )
    return place == place_too


def _has_values(bias: Tensor | None, mask: Tensor | None) -> bool:
    """Whether a call's bias is the mask that its function got."""
    if bias is None or mask is None:
        return bias is mask
    return bias.shape == mask.shape and bias.dtype == mask.dtype and torch.equal(bias, mask)
