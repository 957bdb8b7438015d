"""Keeps the tensors that operators were given while a model runs, by the number of their node.

Autograd keeps no input of a linear map whose weight is frozen, and none of a sum. Rules that share
relevance by the size of what an input contributes need them.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

_KEPT = frozenset({
    "add", "sub", "mul", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear",
    "convolution", "mean", "sum", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_bilinear2d", "_upsample_bilinear2d_aa", "linalg_vector_norm", "norm",
})  # fmt: skip


class Stored(NamedTuple):
    """An operator, and what it was given, by the names of its arguments; tensors have no graph."""

    func: OpOverload
    arguments: Mapping[str, Any]

    def tensor(self, place: int) -> Any:
        """Its argument number `place`."""
        return list(self.arguments.values())[place]

    def again(self, place: int, tensor: Tensor) -> Tensor:
        """Its result with another tensor as argument number `place`."""
        name = list(self.arguments)[place]
        found: Tensor = self.func(**{**self.arguments, name: tensor})
        return found


class OperatorInputs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps inputs of sums, products, linear maps and attention, in every run inside of it.

    >>> x = torch.ones(3, 4, requires_grad=True)
    >>> with OperatorInputs() as inputs:
    ...     y = x @ torch.ones(4, 2)
    >>> inputs.of(y.grad_fn).arguments["self"].shape
    torch.Size([3, 4])
    """

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: the check would load the compiler."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of: dict[int, Stored] = {}
        self._places: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)

    def of(self, node: Node) -> Stored | None:
        """What the operator of a node was given, if it was kept."""
        return self._of.get(node._sequence_nr())  # noqa: SLF001 — torch's own name for it

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Keep what an operator is given, and run it."""
        if not isinstance(func, OpOverload):
            return func(*args, **(kwargs or {}))
        given = dict(zip(_names(func), args, strict=False)) | dict(kwargs or {})
        written = [given[name] for name in _written(func) if isinstance(given.get(name), Tensor)]
        for tensor in written:
            self._copy_before_overwrite(tensor)
        name = func._schema.name.removeprefix("aten::").removesuffix("_")  # noqa: SLF001
        if (name in _KEPT or "scaled_dot_product" in name) and _has_node(given.values()):
            self._keep(func, given, written)
        return func(*args, **(kwargs or {}))

    def _keep(self, func: Any, given: Mapping[str, Any], written: Sequence[Tensor]) -> None:
        number = torch.autograd._get_sequence_nr() - 1  # type: ignore[attr-defined]  # noqa: SLF001
        copies = dict(given)
        for name, value in given.items():
            if isinstance(value, Tensor):
                overwritten = any(value is each for each in written)
                copies[name] = value.detach().clone() if overwritten else value.detach()
                if not overwritten:
                    self._places[_memory(value)].append((number, name))
        self._of[number] = Stored(_without_writing(func), copies)

    def _copy_before_overwrite(self, tensor: Tensor) -> None:
        for number, name in self._places.pop(_memory(tensor), ()):
            kept = self._of[number]
            copy = kept.arguments[name].clone()
            self._of[number] = kept._replace(arguments={**kept.arguments, name: copy})


def _has_node(given: Any) -> bool:
    return torch.is_grad_enabled() and any(
        isinstance(each, Tensor) and each.requires_grad for each in given
    )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@cache
def _names(func: OpOverload) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)  # noqa: SLF001


@cache
def _written(func: OpOverload) -> tuple[str, ...]:
    return tuple(_writing(func))


def _writing(func: OpOverload) -> Iterator[str]:
    for argument in func._schema.arguments:  # noqa: SLF001
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield argument.name


@cache
def _without_writing(func: OpOverload) -> OpOverload:
    """The operator that returns its result instead of writing it: add for add_."""
    name = func._schema.name.removeprefix("aten::")  # noqa: SLF001
    if not name.endswith("_"):
        return func
    found: OpOverload = getattr(getattr(torch.ops.aten, name.removesuffix("_")), func._overloadname)  # noqa: SLF001
    return found
