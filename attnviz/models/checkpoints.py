"""The files of a checkpoint of transformers as one state dict, and which tensors it filled."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnviz.errors import ModelError
from attnviz.models.failures import tried
from attnviz.models.state_dicts import read_state
from attnviz.models.weights import FLOATS, few, is_finite

FILES = ("model.safetensors", "pytorch_model.bin")
"""Files with weights, or indexes of such files, in the order in which transformers looks."""


def read_checkpoint(spec: str, name: str, revision: str | None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by the names that its files give them.

    Args:
        spec: the model's spec, for errors.
        name: a folder, or `ORG/NAME` on the hub.
        revision: revision on the hub.

    Raises:
        ModelError: a file is missing, damaged or empty.
    """
    state: dict[str, Tensor] = {}
    for path, promised in tried(spec, name, lambda: _files(spec, name, revision)).items():
        part = read_state(str(path))
        if lacking := promised - part.keys():
            raise ModelError(
                f"{path}: has no {min(lacking)}, which its index says is in it; give the files of "
                "one checkpoint"
            )
        if twice := state.keys() & part.keys():
            raise ModelError(
                f"{path}: {min(twice)} is in another file of the checkpoint, too; give the files "
                "of one checkpoint"
            )
        state |= part
    if not state:
        raise ModelError(f"{spec}: its weights hold no tensors; save the checkpoint again")
    return state


def _files(spec: str, name: str, revision: str | None) -> dict[Path, set[str]]:
    """The files with weights, downloaded if needed, and the tensors that an index lists in each."""
    for file in FILES:
        whole = find_file(name, file, revision)
        if whole is not None:
            return {whole: set()}
        index = find_file(name, f"{file}.index.json", revision)
        if index is not None:
            return _shards(spec, name, revision, index)
    if Path(name).is_dir():
        raise ModelError(
            f"{spec}: there is no {' and no '.join(FILES)} in it; give a folder that "
            "transformers' save_pretrained wrote"
        )
    find_file(name, FILES[0], revision, required=True)  # raises what is wrong
    raise ModelError(f"{spec}: there is no {' and no '.join(FILES)} in it; give another model")


def _shards(spec: str, name: str, revision: str | None, index: Path) -> dict[Path, set[str]]:
    """The files that an index names, with the tensors that it lists in each."""
    promised: dict[str, set[str]] = {}
    try:
        for key, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            promised.setdefault(file, set()).add(key)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weights; save the checkpoint again") from error
    found = {file: find_file(name, file, revision) for file in sorted(promised)}
    if absent := [file for file, path in found.items() if path is None]:
        raise ModelError(
            f"{spec}: {absent[0]}, which {index.name} names, is not there; put it beside the others"
        )
    return {path: promised[file] for file, path in found.items() if path is not None}


def find_file(name: str, file: str, revision: str | None, *, required: bool = False) -> Path | None:
    """A file of a checkpoint; None if there is none."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 — an optional library

    found = cached_file(
        name, file, revision=revision, _raise_exceptions_for_missing_entries=required
    )
    return None if found is None else Path(found)


MISSING = "is missing"
NOT_FINITE = "holds NaN or infinity"


@dataclass(frozen=True)
class Filling:
    """What a checkpoint filled of a model.

    Attributes:
        unfilled: names of the model's tensors without usable numbers, each with the reason.
        sources: names of the model's tensors that were filled, each with the checkpoint's names
            that it was made of.
        unused: names of the checkpoint that fill nothing, except tensors of whole numbers.
        unexpected: the unused names as the model would name them, as far as that is known.
        prefix: the prefix that was removed from the checkpoint's names.
    """

    unfilled: Mapping[str, str]
    sources: Mapping[str, Sequence[str]]
    unused: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    prefix: str = ""

    def notes(self) -> tuple[str, ...]:
        """Notes for the user about a checkpoint that fills all that maps need."""
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
    """Collect the state dicts that new modules load inside this context, as tensors without data.

    This serves libraries that do not report missing names. Only modules with submodules are seen.
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
    """The filling of a module that loaded a state dict which `loading` collected."""
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
    """Why a tensor was not filled; empty if it was."""
    if state is None:
        return MISSING
    if state.shape != tensor.shape:
        return not_shaped(state.shape, tensor.shape)
    if state.dtype not in FLOATS:
        return not_floats(state.dtype)
    return "" if is_finite(tensor) else NOT_FINITE


def not_shaped(found: Sequence[int], needed: Sequence[int]) -> str:
    """The reason why weights of another shape fill nothing."""
    notes, wanted = ("x".join(map(str, shape)) or "a number" for shape in (found, needed))
    return f"is {notes} where {wanted} is needed"


def not_floats(kind: torch.dtype | torch.layout) -> str:
    """The reason why weights other than dense floats fill nothing."""
    return f"is {str(kind).removeprefix('torch.')} where dense floats are needed"
