"""What a checkpoint filled of a model."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
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
        notes = []
        if self.prefix:
            notes.append(f"the names in its checkpoint are read without {self.prefix!r}")
        missing = [name for name, why in self.unfilled.items() if why == MISSING]
        faulty = [f"{name}, which {why}" for name, why in self.unfilled.items() if why != MISSING]
        if missing:
            notes.append(f"not in its checkpoint, and needed by no map: {few(missing)}")
        if faulty:
            notes.append(f"of no use in its checkpoint, and needed by no map: {few(faulty)}")
        if self.unused:
            notes.append(f"in its checkpoint, and not used: {few(self.unused)}")
        return tuple(notes)


@contextlib.contextmanager
def loading() -> Iterator[list[tuple[nn.Module, dict[str, Tensor]]]]:
    """The state dicts that new modules load inside of this context, as tensors without numbers.

    For libraries that do not report what was missing. A module must hold another to be seen.
    """
    loaded: list[tuple[nn.Module, dict[str, Tensor]]] = []
    hooked: dict[int, nn.Module] = {}
    hooks: list[Any] = []

    def before_loading(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if not prefix:
            loaded.append((module, {name: value.to("meta") for name, value in state.items()}))

    def watch(module: nn.Module, *_: Any) -> None:
        if id(module) not in hooked:
            hooked[id(module)] = module
            register: Any = module.register_load_state_dict_pre_hook
            hooks.append(register(before_loading))

    hooks.append(register_module_module_registration_hook(watch))
    try:
        yield loaded
    finally:
        for hook in hooks:
            hook.remove()


def filling_of(module: nn.Module, state: Mapping[str, Tensor]) -> Filling:
    """What a state dict of such tensors filled of a module that was given it."""
    expected = module.state_dict()
    whys = {
        name: _why(tensor, state.get(name))
        for name, tensor in expected.items()
        if tensor.is_floating_point() or name not in state
    }
    unfilled = {name: why for name, why in whys.items() if why}
    unused = tuple(n for n, t in state.items() if t.is_floating_point() and n not in expected)
    sources = {name: [name] for name in expected if name not in unfilled}
    return Filling(unfilled, sources, unused, unused)


def _why(tensor: Tensor, state: Tensor | None) -> str:
    """Why a tensor was not filled; empty where it was."""
    if state is None:
        return MISSING
    if state.shape != tensor.shape:
        return not_shaped(state.shape, tensor.shape)
    if state.dtype not in FLOATS:
        return not_floats(state.dtype)
    return "" if is_finite(tensor) else NOT_FINITE


def not_shaped(found: Sequence[int], needed: Sequence[int]) -> str:
    """Why weights of another shape fill nothing."""
    notes, wanted = ("x".join(map(str, shape)) or "a number" for shape in (found, needed))
    return f"is {notes} where {wanted} is needed"


def not_floats(kind: torch.dtype | torch.layout) -> str:
    """Why weights of another kind than dense floats fill nothing."""
    return f"is {str(kind).removeprefix('torch.')} where dense floats are needed"
