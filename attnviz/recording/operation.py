"""One operation of a running model, as PyTorch's dispatcher shows it."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload

T = TypeVar("T")
After = Callable[[Any], None]
"""A function to call with the result of an operation."""


class _Operator(NamedTuple):
    """Facts about an operator: name, whether it is pointwise, and which arguments it writes to."""

    name: str
    pointwise: bool
    writes: tuple[tuple[int, str], ...]


class Operation:
    """An operator and its arguments.

    A model runs thousands of operations, so each of these attributes is computed once.

    Attributes:
        name: the operator's name, without its overload and without `aten::`.
        is_pointwise: whether each element of the result depends only on elements at the same place.
        written: the tensors that the operator writes to.
        flat: all arguments, with lists flattened, except keyword arguments that it writes to.
    """

    __slots__ = ("args", "flat", "func", "is_pointwise", "kwargs", "name", "written")

    def __init__(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        self.name, self.is_pointwise, writes = _operator(func)
        written = [self.get(number, name) for number, name in writes] if writes else []
        self.written = [tensor for tensor in _flat(written) if isinstance(tensor, Tensor)]
        named = {name for _, name in writes}
        self.flat = _flat([*args, *(kwargs[name] for name in kwargs if name not in named)])

    def get(self, number: int, name: str, default: Any = None) -> Any:
        """An argument by its number or its name."""
        if number < len(self.args):
            return self.args[number]
        return self.kwargs.get(name, default)


def by_names(handlers: Mapping[str, T]) -> dict[str, T]:
    """A table by the names of operators, of one whose keys hold several names.

    >>> by_names({"add add_": 1, "mul": 2})
    {'add': 1, 'add_': 1, 'mul': 2}
    """
    return {name: handler for names, handler in handlers.items() for name in names.split()}


def first(result: Any) -> Any:
    """The first result of an operator that may have several."""
    return result[0] if isinstance(result, tuple | list) and result else result


def order_of(op: Operation) -> list[int]:
    """For each dimension of a `permute`, `transpose` or `t`: its number in the argument."""
    order = list(range(op.args[0].ndim))
    if op.name == "t":
        order.reverse()
    elif op.name == "permute":
        order = [order[dim] for dim in op.args[1]]
    else:
        a, b = op.args[1:3]
        order[a], order[b] = order[b], order[a]
    return order


def node_of(op: Operation) -> int | None:
    """The number of autograd's node for an operation that is about to run; None if it has none."""
    if not torch.is_grad_enabled():
        return None
    if not any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in op.flat):
        return None
    following: int = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]  # noqa: SLF001
    return following - 1


def _flat(arguments: list[Any]) -> list[Any]:
    """Arguments, with lists flattened."""
    found: list[Any] = []
    for argument in arguments:
        if isinstance(argument, (list, tuple)):
            found += argument
        else:
            found.append(argument)
    return found


@cache
def _operator(func: OpOverload) -> _Operator:
    schema = func._schema  # noqa: SLF001 — how torch names it
    writes = tuple(
        (number, argument.name)
        for number, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    name: str = schema.name
    return _Operator(name.removeprefix("aten::"), torch.Tag.pointwise in func.tags, writes)
