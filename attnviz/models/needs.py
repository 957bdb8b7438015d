"""Whether maps need what a checkpoint left unfilled: measured, by running the model."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.attention.call import AttentionCall
from attnviz.errors import ModelError
from attnviz.models.checkpoints import FILES
from attnviz.models.filling import MISSING, NOT_FINITE, Filling
from attnviz.models.model import Model
from attnviz.models.state_dict_names import digitless, foreign
from attnviz.models.vision import Pooled
from attnviz.models.weights import few
from attnviz.recording import record

SHOWN = 3
"""Weights that are named in a line."""
MASK_TOKENS = ("mask_token",)
"""What parameters are called that stand for patches which are hidden in training alone."""


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
    try:
        in_calls, output = _run(model, tensors)
    except Exception:  # it runs over no empty picture of its own size: nothing is known
        return Reach.MAPS
    if in_calls:
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
    """Names of the checkpoint that are of a layer, or of a part of one, which the model lacks.

    Those of which other layers' were used, or the model's own; and those inside of modules which
    maps need, but for tokens that hide patches in training.
    """
    tensors = whole.state_dict(keep_vars=True)
    inside = {id(tensor) for tensor in model.module.state_dict(keep_vars=True).values()}
    names = [name for name, tensor in tensors.items() if id(tensor) in inside]
    kinds = {digitless(kind) for name in names for kind in (name, *filling.sources.get(name, ()))}
    found = [name for name in filling.unused if digitless(name) in kinds]
    if found:
        return found
    runs = {id(module) for module in model.module.modules()}
    modules = {name: m for name, m in whole.named_modules() if id(m) in runs and name}
    base = getattr(whole, "base_model_prefix", "")
    return [
        name_given
        for name_given in filling.unexpected
        if name_given.rpartition(".")[2] not in MASK_TOKENS
        and any(
            digitless(name) in kinds or _is_inside(model, modules, name)
            for name in (name_given, name_given.removeprefix(f"{base}."), f"{base}.{name_given}")
        )
    ]


def checked(model: Model, whole: nn.Module, filling: Filling, reached: Reach) -> Model:
    """A model of which all is filled that maps need, with what should be known of the rest.

    Raises:
        ModelError: something is not, or the checkpoint has layers which the model lacks.
    """
    if reached == Reach.MAPS:
        raise does_not_fit(model, whole, filling)
    if more := misplaced(model, whole, filling):
        raise no_place(model.spec, more)
    return replace(model, loaded=1.0, notes=(*model.notes, *filling.notes()))


def no_place(spec: str, names: Sequence[str]) -> ModelError:
    """What is said of a checkpoint that has layers, or parts of them, which the model lacks."""
    return ModelError(
        f"{spec}: its weights have {few(names)}, for which the model that its config describes has "
        "no place; mend the config (its number of layers, or what is left out of them), or give "
        "the one that was saved with them"
    )


def does_not_fit(model: Model, whole: nn.Module, filling: Filling) -> ModelError:
    """What is said of a checkpoint that leaves weights unfilled which maps need."""
    spec, depth = model.spec, _depth(whole, filling.unfilled)
    if (found := foreign(filling.unused, _file(spec))) is not None:
        line = f"its weights have {found[0]}, and its config is of another library; {found[1]}"
    elif depth is not None:
        line = (
            f"its config describes a model of {depth[1]} layers, and its weights end with layer "
            f"{depth[0] - 1}; set the number of layers in the config to {depth[0]}, or give all of "
            "the weights"
        )
    else:
        line = _misfits(model, whole, filling)
    return ModelError(f"{spec}: {line}")


def _misfits(model: Model, whole: nn.Module, filling: Filling) -> str:
    """Which weights are not filled, and why."""
    unfilled = unfilled_tensors(model, whole, filling)
    names = list(unfilled)
    if len(names) <= SHOWN:  # which of them matter: the model runs once for each
        names = [name for name in names if reach(model, [unfilled[name]]) == Reach.MAPS] or names
    # As the checkpoint calls them, where it has them.
    whys = [f"{(filling.sources.get(n) or [n])[0]} {filling.unfilled[n]}" for n in names]
    kinds = {filling.unfilled[name] for name in names}
    if kinds == {NOT_FINITE}:
        return f"its weights cannot be used: {few(whys)}; give a checkpoint of finite numbers"
    if all("floats" in kind for kind in kinds):
        return f"its weights cannot be used: {few(whys)}; give the checkpoint as it was trained"
    instead = ""
    if kinds == {MISSING}:
        whys = [f"{few(names)} {'is' if len(names) == 1 else 'are'} missing"]
        instead = _instead(names[0], filling.unused)
    return (
        f"its weights do not fit its config: {few(whys)}{instead}; give a checkpoint whose config "
        "and weights were saved together, by save_pretrained"
    )


def _instead(name: str, unused: Sequence[str]) -> str:
    """A name of the checkpoint that may have been meant, which is of the same layer."""
    leaf, numbers = name.rpartition(".")[2], re.findall(r"\d+", name)
    alike = [n for n in unused if numbers and re.findall(r"\d+", n) == numbers and n.endswith(leaf)]
    near = alike[:1] or get_close_matches(name, unused, n=1, cutoff=0.8)
    return f", and there is {near[0]}, which fits nowhere" if near else ""


def _file(spec: str) -> str:
    """The file of a checkpoint's weights, as it can be typed."""
    paths = (Path(spec) / file for file in FILES)
    return next((str(path) for path in paths if path.is_file()), "FILE")


def _depth(whole: nn.Module, unfilled: Mapping[str, str]) -> tuple[int, int] | None:
    """Layers that are filled, and layers that there are, where all of the last ones are not."""
    numbered: dict[str, dict[int, list[bool]]] = {}
    for name, _ in whole.named_parameters():
        first = re.match(r"(.*?)\.?(\d+)\.", name)
        if first:
            layers = numbered.setdefault(first[1], {})
            layers.setdefault(int(first[2]), []).append(unfilled.get(name) == MISSING)
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


def _run(model: Model, spoiled: Sequence[Tensor]) -> tuple[bool, Any]:
    """Whether NaN in some tensors gets into attention, and what the model gives.

    Over an empty picture of the model's own size.
    """
    side = model.size
    if not model.fixed:
        side = -(-max(side, model.least) // model.patch) * model.patch
    pixels = torch.zeros(1, 3, side, side)
    with _spoiled(spoiled), torch.no_grad():
        with record() as recording:
            output = model.module(pixels)
        # Now, since some are views of the model's weights.
        return any(_has_nan(_parts(call)) for call in recording), output


def _parts(call: AttentionCall) -> tuple[Tensor | None, ...]:
    return call.query, call.key, call.value, call.bias, call.projection


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
