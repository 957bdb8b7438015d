"""Finds the state dict in a file of weights, whatever lies around it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from attnviz.errors import ModelError
from attnviz.models import state_dict_names
from attnviz.models.pickle_calls import StandIn
from attnviz.models.weight_files import read_file

NESTS = (
    "state_dict", "model", "model_state_dict", "teacher", "student", "model_ema", "state_dict_ema",
    "net", "module", "params", "network", "weights", "ema", "encoder", "backbone",
)  # fmt: skip
"""Names under which training code saves a model, the one that is taken first at the front."""
_FACTS = (
    "args", "hyper_parameters", "hparams", "config", "cfg", "opt", "model_args", "model_config",
    "model_kwargs", "vision_config", "init_args", "model", "vision",
)  # fmt: skip
"""Names under which training code saves how a model was built."""
DEPTH = 3
"""So deep lie state dicts and hyper-parameters."""
_CONFIG = 2**24
"""At most so many bytes of a config beside a file are read."""
SAVE = "save the state dict alone: torch.save(model.state_dict(), ...)"


@dataclass(frozen=True)
class StateDict:
    """The weights of a file.

    Attributes:
        tensors: by name.
        facts: what the file says about the model: hyper-parameters by name, without those around.
        notes: sentences for the user on what was chosen.
    """

    tensors: dict[str, Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_state_dict(path: str, key: str | None = None) -> StateDict:
    """Read the state dict of a file.

    Args:
        path: a `.safetensors`, `.npz` or pickled file; pickles are read and never executed.
        key: which of several models, such as `teacher`; None takes the usual one.

    Raises:
        ModelError: the file cannot be read, or holds no state dict, or no such one.
    """
    content = read_file(path)
    found = dict(_states(content))
    facts = {**_config(Path(path).with_name("config.json")), **_facts(content)}
    if not found:
        held = [str(each) for each in _items(content)]
        holds = f" (it holds {', '.join(held[:3])})" if held else ""
        empty = isinstance(content, dict) and not content
        if empty:
            raise ModelError(f"{path}: its weights hold no tensors; save the checkpoint again")
        raise ModelError(f"{path}: not a state dict of tensors{holds}; {SAVE}")
    if key is not None:
        return StateDict(_keyed(path, key, found), facts)
    known = [name for nest in NESTS for name in found if name.rpartition(".")[2] == nest]
    if "" in found and not known:
        return StateDict(found[""], facts)
    if not known and len(found) > 1:
        raise ModelError(
            f"{path}: holds several models ({', '.join(found)}); choose one, such as "
            f"--key {next(iter(found))}"
        )
    name, *others = known or list(found)
    others = [other for other in others if other and not other.startswith(f"{name}.")]
    if not others:
        return StateDict(found[name], facts)
    note = f"read {name!r} of {Path(path).name}; --key takes {' or '.join(others)}"
    return StateDict(found[name], facts, (note,))


def read_state(path: str, key: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, by name; see `read_state_dict`."""
    return read_state_dict(path, key).tensors


def _keyed(path: str, key: str, found: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state dict of a name, or the part of one whose names begin with it."""
    if key in found:
        return found[key]
    for name, state in found.items():
        if name.rpartition(".")[2] == key:
            return state
        if part := state_dict_names.without_prefix(state, f"{key}."):
            return {short: state[whole] for short, whole in part.items()}
    first = {name.partition(".")[0] for state in found.values() for name in state if "." in name}
    names = [name for name in found if name] or sorted(first)
    raise ModelError(f"{path}: holds no {key!r}; --key takes {', '.join(names[:8])}")


def _items(value: Any) -> Mapping[Any, Any]:
    """The entries of a dict, or of an object that is kept as a stand-in."""
    if isinstance(value, StandIn):
        return value.state
    return value if isinstance(value, dict) else {}


def _states(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """State dicts inside of a value, each with its name, outer ones first."""
    if isinstance(value, StandIn) and (state := dict(_of_module(value))):
        yield name, state
        return
    items = {str(key): item for key, item in _items(value).items() if isinstance(key, str)}
    if tensors := {key: item for key, item in items.items() if isinstance(item, Tensor)}:
        yield name, tensors
    if depth < DEPTH:
        for key, item in items.items():
            if not key.startswith(("optim", "lr_", "scaler", "callbacks", "loops", "rng")):
                yield from _states(item, f"{name}.{key}" if name else key, depth + 1)


def _of_module(value: StandIn, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a module that was saved whole: parameters, buffers, and those of parts.

    Modules of TorchScript have all of them as attributes.
    """
    scripted = value.kind.startswith("__torch__.")
    if not scripted and "_parameters" not in value.state:
        return
    if depth > 30:
        raise ModelError(f"a pickled module is nested too deeply; {SAVE}")
    groups = [value.state] if scripted else [_items(value.state.get(n)) for n in _GROUPS]
    for group in groups:
        for name, item in group.items():
            if isinstance(item, Tensor):
                yield f"{prefix}{name}", item
            elif isinstance(item, StandIn):
                yield from _of_module(item, f"{prefix}{name}.", depth + 1)


_GROUPS = ("_parameters", "_buffers", "_modules")
"""Where a module of torch keeps its parts."""


def _facts(value: Any, depth: int = 0) -> dict[str, Any]:
    """Plain values of what a file says about its model; those further outside come first."""
    items, plain = _items(value), str | int | float | list | tuple
    facts = {str(key): item for key, item in items.items() if isinstance(item, plain)}
    if isinstance(items.get("id2label"), dict):
        facts["id2label"] = items["id2label"]
    if depth < DEPTH:
        for name in _FACTS:
            facts = {**_facts(items.get(name), depth + 1), **facts}
    return facts


def _config(path: Path) -> dict[str, Any]:
    """What a config of transformers beside a file says; empty if there is none."""
    try:
        if path.stat().st_size > _CONFIG:
            return {}
        return _facts(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
