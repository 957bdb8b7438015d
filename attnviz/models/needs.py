"""Measures, by a run of the model, whether maps need weights that a checkpoint did not fill."""

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

from attnviz.errors import ModelError
from attnviz.geometry.grid import sides
from attnviz.models.checkpoints import FILES, MISSING, NOT_FINITE, Filling
from attnviz.models.model import Model
from attnviz.models.predictions import find_predictions
from attnviz.models.state_dict_names import digitless, foreign
from attnviz.models.vision import Pooled, Vision
from attnviz.models.weights import few
from attnviz.recording import record

SHOWN = 3
"""At most so many weights are named in a line."""
MASK_TOKENS = ("mask_token",)
"""Names of parameters that replace hidden patches, which exist in training only."""


class Reach(IntEnum):
    """What some tensors influence: nothing, a head that no map needs, or maps."""

    NOTHING = 0
    HEAD = 1
    MAPS = 2


def reach(model: Model, tensors: Sequence[Tensor]) -> Reach:
    """Measure what some tensors of a model influence: which results NaN in them turns to NaN.

    The model runs once on an empty picture, on its current device. Maps are made from the attention
    calls and the tokens that the model returns. Logits, the embedding that is compared with texts,
    and the model's own pooled vector belong to a head.
    """
    if not tensors:
        return Reach.NOTHING
    try:
        in_calls, output = _run(model, tensors)
    except Exception:  # it does not run on an empty picture: nothing is known
        return Reach.MAPS
    if in_calls:
        return Reach.MAPS
    state = output.last_hidden_state if isinstance(output, Pooled) else output
    if _has_nan(state):
        return Reach.MAPS if model.head == "none" else Reach.HEAD
    return Reach.HEAD if _has_nan(getattr(output, "pooler_output", None)) else Reach.NOTHING


def spoils_predictions(model: Model, tensors: Mapping[str, Tensor]) -> bool:
    """Whether what a detector predicts for its objects depends on some tensors.

    It runs once on an empty picture if there are such tensors.
    """
    module = model.module
    if not tensors or not isinstance(module, Vision):
        return False
    try:
        with torch.no_grad(), _spoiled(list(tensors.values())):
            output = module.model(**module.arguments(_empty(model)))
            found = find_predictions(output, module.model)
    except Exception:  # it does not run on an empty picture: nothing is known
        return False
    parts = [] if found is None else [found.scores, found.boxes, found.masks]
    return any(map(_has_nan, parts))


def unfilled_tensors(model: Model, whole: nn.Module, filling: Filling) -> dict[str, Tensor]:
    """Unfilled tensors of the part that runs, by their names in the whole model."""
    inside = {id(tensor) for tensor in model.module.state_dict(keep_vars=True).values()}
    tensors = whole.state_dict(keep_vars=True)
    return {name: tensors[name] for name in filling.unfilled if id(tensors[name]) in inside}


def misplaced(model: Model, whole: nn.Module, filling: Filling) -> list[str]:
    """Names of the checkpoint that belong to a layer, or a part of one, that the model lacks.

    These are names whose counterparts in other layers, or in the model, were used, and names inside
    modules that maps need. Tokens that replace hidden patches in training do not count.
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
    """The model, with notes about weights that were not filled and that no map needs.

    Raises:
        ModelError: maps need an unfilled weight, or the checkpoint has layers that the model lacks.
    """
    if reached == Reach.MAPS:
        raise does_not_fit(model, whole, filling)
    if more := misplaced(model, whole, filling):
        raise no_place(model.spec, more)
    return replace(model, loaded=1.0, notes=(*model.notes, *filling.notes()))


def no_place(spec: str, names: Sequence[str]) -> ModelError:
    """The error for a checkpoint that has layers, or parts of them, that the model lacks."""
    return ModelError(
        f"{spec}: its weights have {few(names)}, for which the model that its config describes has "
        "no place; mend the config (its number of layers, or what is left out of them), or give "
        "the one that was saved with them"
    )


def does_not_fit(model: Model, whole: nn.Module, filling: Filling) -> ModelError:
    """The error for a checkpoint that leaves weights unfilled that maps need."""
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
    if len(names) <= SHOWN:  # the model runs once for each, to see which matter
        names = [name for name in names if reach(model, [unfilled[name]]) == Reach.MAPS] or names
    # By the checkpoint's names, if it has them.
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
    """A similar unused name of the same layer in the checkpoint, as an addition to an error."""
    leaf, numbers = name.rpartition(".")[2], re.findall(r"\d+", name)
    alike = [n for n in unused if numbers and re.findall(r"\d+", n) == numbers and n.endswith(leaf)]
    near = alike[:1] or get_close_matches(name, unused, n=1, cutoff=0.8)
    return f", and there is {near[0]}, which fits nowhere" if near else ""


def _file(spec: str) -> str:
    """The file of a checkpoint's weights, as the user can type it."""
    paths = (Path(spec) / file for file in FILES)
    return next((str(path) for path in paths if path.is_file()), "FILE")


def _depth(whole: nn.Module, unfilled: Mapping[str, str]) -> tuple[int, int] | None:
    """Number of filled layers and of all layers, if all layers at the end are unfilled."""
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
    """Whether a name belongs to a module that runs and that maps need."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in modules:
            return reach(model, list(modules[name].parameters())) == Reach.MAPS
    return False


def _run(model: Model, spoiled: Sequence[Tensor]) -> tuple[bool, Any]:
    """Whether NaN in some tensors gets into attention, and what the model returns."""
    pixels = _empty(model)
    with _spoiled(spoiled), torch.no_grad():
        with record() as recording:
            output = model.module(pixels)
        # Check now, since some are views of the model's weights.
        parts = [(c.query, c.key, c.value, c.bias, c.projection) for c in recording]
        return _has_nan(parts), output


def _empty(model: Model) -> Tensor:
    """An empty picture of a model's own size."""
    shape = model.own_shape or (model.size, model.size)
    if not model.fixed:
        least, (height, width) = max(model.size, model.least), sides(model.patch)
        shape = -(-least // height) * height, -(-least // width) * width
    return model.blank(shape)


def _has_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(value.is_floating_point() and value.isnan().any())
    if isinstance(value, Mapping):
        return any(map(_has_nan, value.values()))
    return isinstance(value, tuple | list) and any(map(_has_nan, value))


@contextlib.contextmanager
def _spoiled(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Fill tensors with NaN inside this context."""
    before = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        try:
            for tensor in tensors:
                tensor.fill_(torch.nan)
            yield
        finally:
            for tensor, values in zip(tensors, before, strict=True):
                tensor.copy_(values)
