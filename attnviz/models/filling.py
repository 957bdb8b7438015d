"""What a checkpoint filled of a model."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnviz.models.weights import FLOATS, few, is_finite

MISSING = "is missing"
NOT_FINITE = "holds NaN or infinity"


@dataclass(frozen=True)
class Filling:
    """What a checkpoint filled of a model.

    Attributes:
        unfilled: the model's tensors that it did not fill with usable numbers, by name: why.
        sources: the model's tensors that it filled, by name: which of its own they were made of.
        unused: names of the checkpoint that went nowhere, without tensors of whole numbers.
        unexpected: the same as the model would name them, as far as that is known.
        prefix: what was taken off the names of the checkpoint.
    """

    unfilled: Mapping[str, str]
    sources: Mapping[str, Sequence[str]]
    unused: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefix: str = ""

    def notes(self) -> tuple[str, ...]:
        """What should be known of a checkpoint that fills all that maps need."""
        said = []
        if self.prefix:
            said.append(f"the names in its checkpoint are read without {self.prefix!r}")
        missing = [name for name, why in self.unfilled.items() if why == MISSING]
        faulty = [f"{name}, which {why}" for name, why in self.unfilled.items() if why != MISSING]
        if missing:
            said.append(f"not in its checkpoint, and needed by no map: {few(missing)}")
        if faulty:
            said.append(f"of no use in its checkpoint, and needed by no map: {few(faulty)}")
        if self.unused:
            said.append(f"in its checkpoint, and not used: {few(self.unused)}")
        return tuple(said)


@contextlib.contextmanager
def loading() -> Iterator[list[tuple[nn.Module, dict[str, torch.dtype]]]]:
    """The state dicts that modules are given which are made inside: what they have, and its types.

    For libraries that say nothing of what was missing. A module must hold another to be seen.
    """
    given: list[tuple[nn.Module, dict[str, torch.dtype]]] = []
    seen: dict[int, nn.Module] = {}
    hooks: list[Any] = []

    def before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if not prefix:
            given.append((module, {name: value.dtype for name, value in state.items()}))

    def made(module: nn.Module, *_: Any) -> None:
        if id(module) not in seen:
            seen[id(module)] = module
            register: Any = module.register_load_state_dict_pre_hook
            hooks.append(register(before_loading))

    hooks.append(register_module_module_registration_hook(made))
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


def filling_of(module: nn.Module, given: Mapping[str, torch.dtype]) -> Filling:
    """What a state dict of these names and types filled of a module that was given it."""
    expected = module.state_dict()
    unfilled = {name: MISSING for name in expected if name not in given}
    for name, tensor in expected.items():
        if not tensor.is_floating_point() or name in unfilled:
            continue
        if given[name] not in FLOATS:
            unfilled[name] = not_floats(given[name])
        elif not is_finite(tensor):
            unfilled[name] = NOT_FINITE
    floats = [name for name, kind in given.items() if kind.is_floating_point]
    unused = tuple(name for name in floats if name not in expected)
    sources = {name: [name] for name in expected if name not in unfilled}
    return Filling(unfilled, sources, unused, unused)


def not_floats(kind: torch.dtype | torch.layout) -> str:
    """Why weights of another kind than dense floats fill nothing."""
    return f"is {str(kind).removeprefix('torch.')} where dense floats are needed"
