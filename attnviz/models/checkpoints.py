"""The files of a checkpoint of transformers, in a folder or on the hub, as one state dict."""

import json
from pathlib import Path

from torch import Tensor

from attnviz.errors import ModelError
from attnviz.models.failures import tried
from attnviz.models.state_dict_names import MERGE
from attnviz.models.weights import read_state

FILES = ("model.safetensors", "pytorch_model.bin")
"""Files with weights, or indexes of such files, in the order in which transformers looks."""
ADAPTER = "adapter_config.json"


def read_checkpoint(spec: str, name: str, revision: str | None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by the names that its files give them.

    Args:
        spec: the model's spec, for errors.
        name: a folder, or `ORG/NAME` on the hub.
        revision: revision on the hub.

    Raises:
        ModelError: a file is missing, damaged or empty, or the weights are an adapter's.
    """
    if tried(spec, name, lambda: _find(name, ADAPTER, revision)) is not None:
        raise ModelError(
            f"{spec}: it is an adapter ({ADAPTER} is there) that is not merged; {MERGE}"
        )
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
        whole = _find(name, file, revision)
        if whole is not None:
            return {whole: set()}
        index = _find(name, f"{file}.index.json", revision)
        if index is not None:
            return _shards(spec, name, revision, index)
    if Path(name).is_dir():
        raise ModelError(
            f"{spec}: there is no {' and no '.join(FILES)} in it; give a folder that "
            "transformers' save_pretrained wrote"
        )
    _find(name, FILES[0], revision, required=True)  # raises what is wrong
    raise ModelError(f"{spec}: there is no {' and no '.join(FILES)} in it; give another model")


def _shards(spec: str, name: str, revision: str | None, index: Path) -> dict[Path, set[str]]:
    """The files that an index names, with the tensors that it lists in each."""
    promised: dict[str, set[str]] = {}
    try:
        for key, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            promised.setdefault(file, set()).add(key)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weights; save the checkpoint again") from error
    found = {file: _find(name, file, revision) for file in sorted(promised)}
    if absent := [file for file, path in found.items() if path is None]:
        raise ModelError(
            f"{spec}: {absent[0]}, which {index.name} names, is not there; put it beside the others"
        )
    return {path: promised[file] for file, path in found.items() if path is not None}


def _find(name: str, file: str, revision: str | None, *, required: bool = False) -> Path | None:
    """A file of a checkpoint; None if there is none."""
    from transformers.utils.hub import cached_file  # noqa: PLC0415 — an optional library

    found = cached_file(
        name, file, revision=revision, _raise_exceptions_for_missing_entries=required
    )
    return None if found is None else Path(found)
