"""Loads a checkpoint into a model of transformers and finds which tensors it filled."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError
from attnviz.models import state_dict_names
from attnviz.models.checkpoints import MISSING, NOT_FINITE, Filling, not_floats, not_shaped
from attnviz.models.weights import FLOATS, is_finite

MARK = 2**20
"""The first number that marks a tensor; no random weight is so large."""


def load_pretrained(
    spec: str, kind: Any, config: Any, state: Mapping[str, Tensor]
) -> tuple[nn.Module, Filling]:
    """A model of transformers with the weights of a checkpoint.

    transformers renames, joins and splits tensors as it loads them, and initialises missing ones
    at random. So a first pass loads a unique number in place of every tensor, which shows where
    each tensor goes.

    Args:
        spec: the model's spec, for errors.
        kind: model class of transformers.
        config: config of the model.
        state: state dict of the checkpoint, as `read_checkpoint` returns it.

    Raises:
        ModelError: the weights are an adapter's or quantised, or their names are ambiguous.
    """
    why = state_dict_names.unreadable(state)
    if why is None and getattr(config, "quantization_config", None) is not None:
        why = (
            "its config is of quantised weights; give the checkpoint that they were made from, or "
            "one saved after model.dequantize()"
        )
    if why is not None:
        raise ModelError(f"{spec}: {why}")
    base = f"{kind.base_model_prefix}."
    if both := [name for name in state if base + name in state]:
        raise ModelError(
            f"{spec}: its weights have {both[0]} and {base}{both[0]}; save one of the two alone"
        )
    names, filling = _read_names(spec, kind, config, state)
    tensors = {name: state[given] for name, given in names.items()}
    model, _ = _filled(
        kind, config, {n: t for n, t in tensors.items() if t.layout == torch.strided}
    )
    faulty = {
        name: NOT_FINITE
        for name, tensor in model.named_parameters()
        if name not in filling.unfilled and not is_finite(tensor.detach())
    }
    faulty |= {
        name: NOT_FINITE
        for name, tensor in model.named_buffers()
        if name not in filling.unfilled and tensor.is_floating_point() and tensor.isnan().any()
    }
    return model, replace(filling, unfilled={**filling.unfilled, **faulty})


def _read_names(
    spec: str, kind: Any, config: Any, state: Mapping[str, Tensor]
) -> tuple[dict[str, str], Filling]:
    """Names as transformers must load them → names in the checkpoint, and what they fill.

    Names stay as they are, unless most of the model would stay empty and only a prefix is wrong.

    Raises:
        ModelError: several prefixes fill the model.
    """
    names = {name: name for name in state}
    filling, count = _follow(kind, config, state, names)
    wrapped = state_dict_names.without_wrappers(state)
    if not filling.unfilled or (2 * len(filling.unfilled) <= count and not wrapped):
        return names, filling
    readings = [(_prefix_of(wrapped), wrapped)] if wrapped else []
    readings += [
        (prefix, state_dict_names.without_prefix(state, prefix))
        for prefix in state_dict_names.prefixes(state, count // 2)
        if prefix != f"{kind.base_model_prefix}."  # transformers removes this one itself
    ]
    best: list[tuple[dict[str, str], Filling]] = [(names, filling)]
    for prefix, renamed in readings:
        tried, _ = _follow(kind, config, state, renamed)
        tried = replace(tried, prefix=prefix)
        if len(tried.unfilled) < len(best[0][1].unfilled):
            best = [(renamed, tried)]
        elif best[0][1].prefix and len(tried.unfilled) == len(best[0][1].unfilled):
            best.append((renamed, tried))
    first = best[0][1].prefix
    if rivals := [r.prefix for _, r in best[1:] if not r.prefix.startswith(first)]:
        raise ModelError(
            f"{spec}: its weights are there twice, as {first}… and as {rivals[0]}…; save one of "
            "the two alone"
        )
    return best[0]


def _prefix_of(renamed: Mapping[str, str]) -> str:
    """The wrapper that was removed from names."""
    original = next(original for name, original in renamed.items() if name != original)
    return next(part for part in original.split(".") if part in state_dict_names.WRAPPERS) + "."


def _follow(
    kind: Any, config: Any, state: Mapping[str, Tensor], names: Mapping[str, str]
) -> tuple[Filling, int]:
    """Where each tensor of a checkpoint goes, and how many tensors the model has."""
    files = list(names.values())
    tensors = [state[name] for name in files]
    marks = {name: _mark(number, tensors[number].shape) for number, name in enumerate(names)}
    model, info = _filled(kind, config, marks)
    shapes = {name: (found, needed) for name, found, needed in info["mismatched_keys"]}
    # A missing tensor that transformers does not initialise is old memory: it may hold marks.
    missing = set(info["missing_keys"])
    sources = {
        name: set() if name in missing else _sources(tensor, len(tensors))
        for name, tensor in model.state_dict().items()
    }
    unfilled = {
        name: _why(shapes.get(name), [tensors[number] for number in sources[name]])
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.numel()
    }
    used = {files[number] for numbers in sources.values() for number in numbers}
    used |= {names[name] for name in shapes if name in names}
    used |= {name for name, tensor in state.items() if not tensor.numel()}  # nothing to fill
    counts = {name.rpartition(".")[2] for name, tensor in state.items() if _counts(tensor)}
    filling = Filling(
        {name: why for name, why in unfilled.items() if why},
        {name: [files[number] for number in numbers] for name, numbers in sources.items()},
        tuple(name for name in state if name not in used and not _counts(state[name])),
        tuple(sorted(n for n in info["unexpected_keys"] if n.rpartition(".")[2] not in counts)),
    )
    return filling, len(sources)


def _why(shapes: tuple[Any, Any] | None, sources: Sequence[Tensor]) -> str:
    """Why a tensor is not filled; empty if it is."""
    if shapes is not None:
        return not_shaped(*shapes)
    for tensor in sources:
        if tensor.dtype not in FLOATS or tensor.layout != torch.strided:
            return not_floats(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
    return "" if sources else MISSING


def _counts(tensor: Tensor) -> bool:
    """Whether a tensor holds whole numbers: indexes and counts, not weights."""
    return not tensor.is_floating_point()


def _mark(number: int, shape: torch.Size) -> Tensor:
    """A tensor that repeats one number, stored once for each row.

    Rows are stored separately, because transformers sets padding rows to zero after loading.
    """
    rows = torch.full((*shape[:1], *[1] * len(shape[1:])), float(MARK + number))
    return rows.expand(shape)


def _sources(tensor: Tensor, count: int) -> set[int]:
    """Numbers of the checkpoint's tensors that a tensor was made of; empty if all is random."""
    if tensor.dtype == torch.bool or not tensor.numel():
        return set()
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0:  # stored once
            tensor = tensor.narrow(axis, 0, 1)
    values = torch.unique_consecutive(tensor.flatten().double())
    return {int(value) - MARK for value in values.tolist() if MARK <= value < MARK + count}


def _filled(
    kind: Any, config: Any, state: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Any]]:
    """A model of transformers with a state dict loaded, and transformers' loading report.

    It is in float32: half precision in a config would round the positions of rotary embeddings.
    """
    loaded: tuple[nn.Module, dict[str, Any]] = kind.from_pretrained(
        None,
        config=config,
        state_dict=dict(state),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    return loaded
