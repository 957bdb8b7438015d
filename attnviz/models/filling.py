"""What a checkpoint filled of a model, and whether what it left is needed by maps."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnviz.attention.recording import record
from attnviz.errors import ModelError
from attnviz.models.layouts import digitless, foreign
from attnviz.models.model import Model
from attnviz.models.vision import Pooled
from attnviz.models.weights import FLOATS, SHOWN, few, is_finite

MASK_TOKENS = ("mask_token",)
"""What parameters are called that stand for patches which are hidden in training alone."""


@dataclass(frozen=True)
class Filling:
    """What a checkpoint filled of a model.

    Attributes:
        unfilled: the model's tensors that it did not fill with usable numbers, by name: why.
        unused: names of the checkpoint that went nowhere.
        unexpected: the same as the model would name them, without tensors of whole numbers.
        prefix: what was taken off the names of the checkpoint.
    """

    unfilled: Mapping[str, str]
    unused: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefix: str = ""

    def notes(self) -> tuple[str, ...]:
        """What should be known of a checkpoint that fills all that maps need."""
        said = []
        if self.prefix:
            said.append(f"the names in its checkpoint are read without {self.prefix!r}")
        if self.unfilled:
            said.append(f"not in its checkpoint, and needed by no map: {few(list(self.unfilled))}")
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
    unfilled = {name: "is missing" for name in expected if name not in given}
    for name, tensor in expected.items():
        if not tensor.is_floating_point() or name in unfilled:
            continue
        if given[name] not in FLOATS:
            kind = str(given[name]).removeprefix("torch.")
            unfilled[name] = f"is {kind} where dense floats are needed"
        elif not is_finite(tensor):
            unfilled[name] = "holds NaN or infinity"
    unused = tuple(name for name in given if name not in expected)
    return Filling(unfilled, unused, tuple(n for n in unused if given[n].is_floating_point))


class Reach(IntEnum):
    """How far numbers of some tensors get: to no map, to a head that no map needs, or to maps."""

    NOTHING = 0
    HEAD = 1
    MAPS = 2


def reach(model: Model, tensors: Sequence[Tensor]) -> Reach:
    """How far tensors of a model matter, measured: what NaN in them turns to NaN.

    The model runs once over an empty picture, on the device that it is on. Maps are made of the
    attention calls and of the tokens that the model gives; its logits, its embedding beside texts,
    and the vector that it pools itself, are a head's.
    """
    if not tensors:
        return Reach.NOTHING
    side = model.size if model.fixed else max(model.size, model.least)
    side = side if model.fixed else -(-side // model.patch) * model.patch
    pixels = torch.zeros(1, 3, side, side)
    with _spoiled(tensors), torch.no_grad(), record() as recording:
        output = model.module(pixels)
    parts = [part for call in recording for part in (call.query, call.key, call.value, call.bias)]
    if any(_has_nan(part) for part in parts):
        return Reach.MAPS
    state = output.last_hidden_state if isinstance(output, Pooled) else output
    if _has_nan(state):
        return Reach.MAPS if model.head == "none" else Reach.HEAD
    return Reach.HEAD if _has_nan(getattr(output, "pooler_output", None)) else Reach.NOTHING


def unfilled_tensors(model: Model, whole: nn.Module, filling: Filling) -> dict[str, Tensor]:
    """The tensors of the part that runs which were not filled, by their names in the whole."""
    inside = {id(tensor) for tensor in model.module.state_dict(keep_vars=True).values()}
    tensors = whole.state_dict(keep_vars=True)
    return {name: tensors[name] for name in filling.unfilled if id(tensors[name]) in inside}


def misplaced(model: Model, whole: nn.Module, filling: Filling) -> list[str]:
    """Names of the checkpoint that are of a layer, or of a part of one, which the model lacks."""
    inside = {id(module) for module in model.module.modules()}
    mine = {id(parameter) for parameter in model.module.parameters()}
    modules = {name: m for name, m in whole.named_modules() if id(m) in inside and name}
    kinds = {digitless(name) for name, p in whole.named_parameters() if id(p) in mine}
    base = getattr(whole, "base_model_prefix", "")
    found = []
    for given in filling.unexpected:
        for name in {given, given.removeprefix(f"{base}."), f"{base}.{given}"}:
            if name.rpartition(".")[2] in MASK_TOKENS:
                continue
            if digitless(name) in kinds or _is_inside(model, modules, name):
                found.append(given)
                break
    return found


def checked(model: Model, whole: nn.Module, filling: Filling, reached: Reach) -> Model:
    """A model of which all is filled that maps need, with what should be known of the rest.

    Raises:
        ModelError: something is not, or the checkpoint has layers which the model lacks.
    """
    if reached == Reach.MAPS:
        raise does_not_fit(model, whole, filling)
    if more := misplaced(model, whole, filling):
        raise ModelError(
            f"{model.spec}: its weights have {few(more)}, for which the model that its config "
            "describes has no place; mend the config (its number of layers, or what is left out of "
            "them), or give the one that was saved with them"
        )
    return replace(model, loaded=1.0, notes=(*model.notes, *filling.notes()))


def does_not_fit(model: Model, whole: nn.Module, filling: Filling) -> ModelError:
    """What is said of a checkpoint that leaves weights unfilled which maps need."""
    spec, unused = model.spec, filling.unused
    left = unfilled_tensors(model, whole, filling)
    names = list(left)
    if len(names) <= SHOWN:  # which of them matter: the model runs once for each
        names = [name for name in names if reach(model, [left[name]]) == Reach.MAPS]
    lacking = {name: filling.unfilled[name] for name in names}
    found = foreign(unused)
    if found is not None:
        return ModelError(
            f"{spec}: its weights have {found[0]}, its config is of another library; {found[1]}"
        )
    depth = _depth(whole, filling.unfilled)
    if depth is not None:
        return ModelError(
            f"{spec}: its config describes a model of {depth[1]} layers, and its weights end with "
            f"layer {depth[0] - 1}; set the number of layers in the config to {depth[0]}, or give "
            "all of the weights"
        )
    whys = [f"{name} {why}" for name, why in lacking.items()]
    if all(why == "is missing" for why in lacking.values()):
        whys = [f"{few(names)} {'is' if len(names) == 1 else 'are'} missing"]
    near = get_close_matches(names[0], unused, n=1, cutoff=0.0)
    instead = f", and there is {near[0]}, which fits nowhere" if near else ""
    return ModelError(
        f"{spec}: its weights do not fit its config: {few(whys)}{instead}; give one whose "
        "config and weights were saved together, by save_pretrained"
    )


def _depth(whole: nn.Module, unfilled: Mapping[str, str]) -> tuple[int, int] | None:
    """Layers that are filled, and layers that there are, where all of the last ones are not."""
    numbered: dict[str, dict[int, list[bool]]] = {}
    for name, _ in whole.named_parameters():
        first = re.match(r"(.*?)\.?(\d+)\.", name)
        if first:
            layers = numbered.setdefault(first[1], {})
            layers.setdefault(int(first[2]), []).append(unfilled.get(name) == "is missing")
    for layers in numbered.values():
        empty = [number for number, missing in layers.items() if all(missing)]
        first_empty = min(empty, default=0)
        if first_empty and empty == list(range(first_empty, len(layers))):
            return first_empty, len(layers)
    return None


def _is_inside(model: Model, modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a name is of a module of the part that runs which maps need."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in modules:
            return reach(model, list(modules[name].parameters())) == Reach.MAPS
    return False


def _has_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.is_floating_point() and value.isnan().any())
    return isinstance(value, tuple | list) and any(map(_has_nan, value))


@contextlib.contextmanager
def _spoiled(tensors: Sequence[Tensor]) -> Iterator[None]:
    """NaN in tensors while something runs."""
    before = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        try:
            for tensor in tensors:
                tensor.fill_(torch.nan)
            yield
        finally:
            for tensor, values in zip(tensors, before, strict=True):
                tensor.copy_(values)
