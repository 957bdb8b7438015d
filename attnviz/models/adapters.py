"""Reads adapters of PEFT, and merges LoRA's matrices into their model."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError, UsageError
from attnviz.models.checkpoints import find_file
from attnviz.models.failures import tried
from attnviz.models.fitting import is_head, size
from attnviz.models.hub import name_of
from attnviz.models.model_request import ModelRequest
from attnviz.models.state_dict_names import MERGE
from attnviz.models.state_dicts import read_state

ADAPTER = "adapter_config.json"
_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_WRAPPER = "base_model.model."
_CHANGING_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of initialisations that change the base's weights, which the matrices then go with."""
_MATRIX = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")


@dataclass(frozen=True)
class LowRankChange:
    """A change of a weight: scale · B·A, A (rank, in, …) and B (out, rank, …)."""

    a: Tensor
    b: Tensor
    scale: float

    def of(self, weight: Tensor, *, transposed: bool) -> Tensor:
        """The change in the shape of a weight, (out, in, …), or (in, out) if it is transposed."""
        change = self.scale * (self.b.flatten(1) @ self.a.flatten(1))
        if transposed and weight.ndim == 2:
            change = change.T
        if change.numel() != weight.numel() or len(change) != len(weight):
            raise ValueError(f"{size(change)} where {size(weight)} is needed")
        return change.view(weight.shape)


@dataclass(frozen=True)
class Adapter:
    """An adapter of LoRA (Hu et al. 2021, 2106.09685).

    Attributes:
        base: the model that it was trained on, as its config names it; None if it does not.
        changes: changes of weights by the names of modules.
        tensors: tensors by their names that take the place of the model's.
        transposed: whether weights are (in, out).
    """

    base: str | None
    changes: Mapping[str, LowRankChange]
    tensors: Mapping[str, Tensor]
    transposed: bool = False

    @property
    def head(self) -> dict[str, Tensor]:
        """The tensors of its class head."""
        return {name: tensor for name, tensor in self.tensors.items() if is_head(name)}


def read_adapter(spec: str, find: Callable[[str], Path | None]) -> Adapter | None:
    """The adapter of a model; None if it is none.

    Args:
        spec: the model's spec, for errors.
        find: the path of one of its files by name; None if there is no such file.

    Raises:
        ModelError: it is no LoRA of linear layers and convolutions, or damaged.
    """
    path = find(ADAPTER)
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, alpha = _kind(config), float(config.get("lora_alpha", 8))
        patterns = dict(config.get("alpha_pattern") or {})
    except (ValueError, AttributeError, TypeError, OSError) as error:
        raise ModelError(f"{path}: no config of an adapter; save it again") from error
    if kind != "LORA":
        raise ModelError(f"{spec}: an adapter of {kind}, which PEFT alone merges; {MERGE}")
    file = next((found for name in _FILES if (found := find(name)) is not None), None)
    if file is None:
        raise ModelError(f"{spec}: there is no {' and no '.join(_FILES)} beside {ADAPTER}")
    state = {name.removeprefix(_WRAPPER): each for name, each in read_state(str(file)).items()}
    matrices = {name: match for name in state if (match := _MATRIX.fullmatch(name))}
    if strange := [name for name in state if "lora_" in name and name not in matrices]:
        raise ModelError(f"{file}: {strange[0]} is no matrix of a layer; {MERGE}")
    changes = {}
    for module in dict.fromkeys(match["module"] for match in matrices.values()):
        sides = {m["side"]: state[n].float() for n, m in matrices.items() if m["module"] == module}
        if len(sides) < 2:
            raise ModelError(f"{file}: {module} has one of two matrices; save it again")
        strength = next(
            (a for p, a in patterns.items() if re.search(rf"(^|\.){p}$", module)), alpha
        )
        rank = len(sides["A"])
        scale = strength / (math.sqrt(rank) if config.get("use_rslora") else rank)
        changes[module] = LowRankChange(sides["A"], sides["B"], scale)
    return Adapter(
        config.get("base_model_name_or_path") or None,
        changes,
        {name: each for name, each in state.items() if name not in matrices},
        bool(config.get("fan_in_fan_out")),
    )


def _kind(config: Mapping[str, Any]) -> str:
    """The kind of an adapter: `LORA` if B·A is all that its weights gained."""
    start = str(config.get("init_lora_weights")).lower()
    if config.get("use_dora"):
        return "DoRA"
    if start.startswith(_CHANGING_BASE):
        return f"LoRA that began as {start}"
    for name in ("use_qalora", "alora_invocation_tokens", "layer_replication"):
        if config.get(name):
            return f"LoRA with {name}"
    return str(config.get("peft_type"))


def find_base(spec: str, adapter: Adapter, given: str | None) -> str:
    """The folder or the name on the hub of the model that an adapter was trained on.

    Raises:
        ModelError: its config does not name it, or names a folder that is not there.
    """
    if given is not None:
        return given
    if adapter.base is None:
        raise ModelError(f"{spec}: its {ADAPTER} does not name its base; add --base FOLDER")
    beside = Path(spec) / adapter.base
    if Path(adapter.base).is_dir() or not beside.is_dir():
        is_path = Path(adapter.base).is_absolute() or adapter.base.startswith(".")
        if is_path and not Path(adapter.base).is_dir():
            raise ModelError(f"{spec}: its base {adapter.base} is not there; add --base FOLDER")
        return adapter.base
    return str(beside)


@torch.no_grad()
def merge(spec: str, adapter: Adapter, whole: nn.Module, *, heads: bool = False) -> str:
    """Merge an adapter into its model, in place; returns a note for the user.

    The tensors of a class head are loaded with the base's weights, unless `heads` is True.

    Raises:
        ModelError: something of it has no place in the model.
    """
    modules = dict(whole.named_modules())
    for name, change in adapter.changes.items():
        module = _module(spec, modules, name)
        weight: Any = getattr(module, "weight", None)
        try:
            _put(module, "weight", weight + change.of(weight, transposed=adapter.transposed))
        except (ValueError, AttributeError, TypeError) as error:
            raise ModelError(f"{spec}: its matrices of {name} do not fit: {error}") from error
    for name, tensor in adapter.tensors.items():
        if name in adapter.head and not heads:
            continue
        owner, _, leaf = name.rpartition(".")
        module = _module(spec, modules, owner)
        place: Any = getattr(module, leaf, None)
        if not isinstance(place, Tensor) or place.shape != tensor.shape:
            raise ModelError(f"{spec}: its {name}, {size(tensor)}, has no place in its base")
        _put(module, leaf, tensor.to(place))
    return f"LoRA of {len(adapter.changes)} layers is merged"


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Give a module a weight of its own, also where another module had the same one (tied)."""
    of_weights = isinstance(getattr(module, name), nn.Parameter)
    setattr(module, name, nn.Parameter(value, requires_grad=False) if of_weights else value)


def _module(spec: str, modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    """The one module of a name; the model may lie deeper or less deep than in training.

    Raises:
        ModelError: there is none, or more than one.
    """
    if name in modules:
        return modules[name]
    alike = [
        own
        for own in modules
        if own and (f".{name}".endswith(f".{own}") or own.endswith(f".{name}"))
    ]  # an older release of transformers had the same modules in another order
    alike = alike or [own for own in modules if sorted(own.split(".")) == sorted(name.split("."))]
    if len(alike) > 1:
        longest = max(map(len, alike))
        alike = [own for own in alike if len(own) == longest]
    if len(alike) != 1:
        raise ModelError(
            f"{spec}: its {name} has no place in its base; give the base that it was trained on by "
            f"--base FOLDER, or {MERGE}"
        )
    return modules[alike[0]]


def adapted(
    request: ModelRequest, name: str, revision: str | None
) -> tuple[Adapter | None, str, str | None]:
    """The adapter that a spec names, if it is one, and name and revision of the model itself."""
    spec = request.spec
    adapter = None
    if request.alias is None:
        find = lambda file: tried(spec, name, lambda: find_file(name, file, revision))  # noqa: E731
        adapter = read_adapter(spec, find)
    if adapter is None:
        if request.base is not None:
            raise UsageError(f"--base {request.base}: {spec} is no adapter; leave it out")
        return None, name, revision
    if request.weights is not None:
        raise UsageError(f"--weights {request.weights}: {spec} is an adapter; give --base FOLDER")
    return adapter, *name_of(find_base(name, adapter, request.base))
