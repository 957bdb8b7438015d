"""One operation of a running model, as PyTorch's dispatcher shows it."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


@dataclass(frozen=True, eq=False)
class Operation:
    """An operator and what it is given."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the operator, without its overload and without `aten::`."""
        return _name(self.func)

    @property
    def is_pointwise(self) -> bool:
        """Whether each element of the result comes of the elements at its place."""
        return torch.Tag.pointwise in self.func.tags

    @cached_property
    def flat(self) -> list[Any]:
        """The arguments, those in lists too, but for what is named only to be written to."""
        written = {name for _, name in _writes(self.func)}
        named = [argument for name, argument in self.kwargs.items() if name not in written]
        return [
            each
            for argument in (*self.args, *named)
            for each in (argument if isinstance(argument, list | tuple) else (argument,))
        ]

    @property
    def written(self) -> list[Tensor]:
        """The tensors that the operator writes to."""
        found: list[Any] = []
        for number, name in _writes(self.func):
            argument = self.get(number, name)
            found += argument if isinstance(argument, list | tuple) else [argument]
        return [tensor for tensor in found if isinstance(tensor, Tensor)]

    def get(self, number: int, name: str, default: Any = None) -> Any:
        """An argument by its number or its name."""
        if number < len(self.args):
            return self.args[number]
        return self.kwargs.get(name, default)


def first(result: Any) -> Any:
    """The first result of an operator that may have several."""
    return result[0] if isinstance(result, tuple | list) and result else result


@cache
def _name(func: OpOverload) -> str:
    name: str = func._schema.name  # noqa: SLF001 — how torch names it
    return name.removeprefix("aten::")


@cache
def _writes(func: OpOverload) -> tuple[tuple[int, str], ...]:
    """Number and name of the arguments that an operator writes to."""
    return tuple(
        (number, argument.name)
        for number, argument in enumerate(func._schema.arguments)  # noqa: SLF001
        if argument.alias_info is not None and argument.alias_info.is_write
    )
