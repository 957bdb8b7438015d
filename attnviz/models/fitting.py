"""Fits the weights of a file to a module: names, positions of another grid, other heads."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from attnviz.errors import MisfitError, ModelError
from attnviz.models import state_dict_names
from attnviz.models.position_tables import fit_positions
from attnviz.models.state_dicts import read_state_dict
from attnviz.models.weights import FLOATS, few, is_finite

HEAD = re.compile(r"(^|_)(heads?|fc|classifier|logits)(_|$)")
"""Components of names of class heads."""
_TRAINING = re.compile(
    r"^(mask_token|decoder|criterion|loss|projector|predictor|projection_head|prototypes?|queue|"
    r"teacher|student|ema|momentum|metric|train|val|test)"
)
"""Beginnings of names that serve training only."""


@dataclass(frozen=True)
class Fitted:
    """Weights of a file by the names of a module.

    Attributes:
        state: for every tensor of the module but its class head, if that is left out.
        heads: names of the linear layers that are left out.
        notes: sentences for the user.
    """

    state: dict[str, Tensor]
    heads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_weights(
    module: nn.Module, path: str, key: str | None = None, *, antialias: bool = False
) -> tuple[str, ...]:
    """Load the weights of a file into a module; return notes for the user.

    A class head that the file lacks, or has of another size, is replaced by an identity.

    Args:
        module: the module; it is changed.
        path: the file.
        key: which of several models in the file.
        antialias: how positions of another grid are interpolated.

    Raises:
        ModelError: the file cannot be read, or does not fit.
    """
    found = read_state_dict(path, key)
    fitted = fit(module, found.tensors, path, antialias=antialias)
    for name in fitted.heads:
        module.set_submodule(name, nn.Identity())
    if fitted.heads:
        module.num_classes = 0  # type: ignore[assignment]  # what timm says of a model without head
    module.load_state_dict(fitted.state, strict=False)
    return (*found.notes, *fitted.notes)


def fit(
    module: nn.Module, state: Mapping[str, Tensor], path: str, *, antialias: bool = False
) -> Fitted:
    """The weights of a file by the names of a module.

    Raises:
        ModelError: a weight is missing, has no place or another shape, or cannot be used.
    """
    expected = module.state_dict()
    names, prefix = _names(expected, state, path)
    found = {own: state[given] for own, given in names.items() if own in expected}
    heads = _unfilled_heads(module, expected, found)
    dropped = {own for own in expected if own.rpartition(".")[0] in heads}
    found = {own: tensor for own, tensor in found.items() if own not in dropped}
    found, resized = fit_positions(expected, found, antialias=antialias)
    extra = {own: given for own, given in names.items() if own not in expected}
    _check(expected, found, dropped, extra, path)
    unused = [given for own, given in extra.items() if not _counts(own)]
    unused += sorted(state.keys() - names.values())
    fitted = Fitted(found, heads, (f"{resized} ({Path(path).name})",) if resized else ())
    return replace(fitted, notes=tuple(_notes(path, names, prefix, unused, fitted)))


def _names(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str
) -> tuple[dict[str, str], str]:
    """A dict: name in the module → name in the file, and the prefix that is removed."""
    best: tuple[int, dict[str, str], str] = (-1, {}, "")
    rivals: list[tuple[str, set[str]]] = []
    wrapped = state_dict_names.without_wrappers(state)
    bases = [{name: name for name in state}, *([wrapped] if wrapped else [])]
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    added = ["", *state_dict_names.prefixes(expected, len(expected) // 2)]
    for base in bases:
        for prefix in ["", *state_dict_names.prefixes(base, 1)[:64]]:
            bare = {
                name[len(prefix) :]: given
                for name, given in base.items()
                if name.startswith(prefix)
            }
            for own in added:
                names = {own + name: given for name, given in bare.items()}
                score = sum(2 + (state[names[n]].shape == shapes[n]) for n in names if n in shapes)
                if score > best[0]:
                    best, rivals = (score, names, prefix), [(prefix, set(names.values()))]
                elif score == best[0] and score and not rivals[0][1] & set(names.values()):
                    rivals.append((prefix, set(names.values())))
    if len(rivals) > 1 and best[0] > len(expected):
        keys = [prefix.rstrip(".") for prefix, _ in rivals]
        raise ModelError(
            f"{path}: its weights are there twice, as {keys[0]}.… and as {keys[1]}.…; choose one: "
            f"--key {keys[0]}"
        )
    return best[1], best[2]


def _unfilled_heads(
    module: nn.Module, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Names of linear layers of the class head that the file lacks, or has of another size.

    A head is a part of the module itself, or of the one part that holds everything: a layer called
    `fc` deeper inside may belong to a block, and its weights are needed.
    """
    tops = {name.partition(".")[0] for name in expected}
    whole = f"{tops.pop()}." if len(tops) == 1 else ""
    return tuple(
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
        and HEAD.search(name.removeprefix(whole).partition(".")[0])
        and any(
            own not in found or found[own].shape != expected[own].shape
            for own in (f"{name}.{each}" for each, _ in part.named_parameters())
        )
    )  # fmt: skip


def is_head(name: str) -> bool:
    """Whether a name is that of a class head or of its part.

    >>> is_head("head.weight"), is_head("blocks.0.fc.weight"), is_head("heads.head")
    (True, False, True)
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if HEAD.search(part)), len(parts))
    return first < min(2, len(parts)) and not any(part.isdecimal() for part in parts[:first])


def _check(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    dropped: set[str],
    extra: Mapping[str, str],
    path: str,
) -> None:
    """Check that no weight is missing or has no place, and that all shapes and numbers are usable.

    Raises:
        MisfitError: there is such a weight; three lines say what does not fit.
        ModelError: all weights fit, and numbers cannot be used.
    """
    needed = [name for name, tensor in expected.items() if name not in dropped]
    floats = [name for name in needed if expected[name].is_floating_point()]
    missing = [f"{name} is missing" for name in floats if name not in found]
    shapes = [
        f"{name} is {size(found[name])} where {size(expected[name])} is needed"
        for name in needed
        if name in found and found[name].shape != expected[name].shape
    ]
    top = {name.partition(".")[0] for name in expected if is_head(name)}
    alien = [
        f"{given} has no place"
        for own, given in extra.items()
        if not _TRAINING.match(own) and (top or not is_head(own)) and not _counts(own)
    ]
    if missing or shapes or alien:
        fits = len(floats) - len(missing) - len(shapes)
        _, advice = state_dict_names.foreign(extra.values(), path) or (
            "", "give the model that the file was saved from",
        )  # fmt: skip
        raise misfit(path, fits, len(floats), (missing, shapes, alien), advice)
    unusable = [f"{name} {why}" for name in needed if (why := _unusable(name, found, expected))]
    if unusable:
        raise ModelError(
            f"{path}: its weights cannot be used: {few(unusable)}; give the checkpoint as it was "
            "trained"
        )


def misfit(
    path: str, fits: int, count: int, kinds: Iterable[Sequence[str]], advice: str
) -> MisfitError:
    """The error for a file that does not fit: how much fits, what does not, what to try."""
    shown = "; ".join(few(kind, 1) for kind in kinds if kind)
    return MisfitError(
        f"{path} does not fit: {fits} of {count} weights fit", shown, f"try: {advice}"
    )


def _unusable(name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Why a weight that fits is of no use; empty if it is of use."""
    tensor = found.get(name)
    if tensor is None or not expected[name].is_floating_point():
        return ""
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in FLOATS:
        kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
        return f"is {str(kind).removeprefix('torch.')}, where dense floats are needed"
    return "" if is_finite(tensor.float()) else "holds NaN, infinity, or more than float32 can"


def _notes(
    path: str, names: Mapping[str, str], prefix: str, unused: Sequence[str], fitted: Fitted
) -> Iterator[str]:
    """Sentences for the user on how a file was read."""
    file = Path(path).name
    yield from fitted.notes
    changed = next(((own, given) for own, given in names.items() if own != given), None)
    if changed is not None:
        how = "without a prefix" if prefix else "with other names"
        yield f"the names in {file} are read {how}: {changed[1]} as {changed[0]}"
    if fitted.heads:
        yield (
            f"no class head ({file} has no {few(fitted.heads)} of its size): left out; -m {path} "
            "alone keeps the head of a plain vision transformer"
        )
    if unused:
        yield f"in {file}, and not used: {few(unused)}"


def _counts(name: str) -> bool:
    """Whether a tensor is a count or an index, not a weight, by its name."""
    return name.endswith(("num_batches_tracked", "position_ids", "relative_position_index"))


def size(tensor: Tensor) -> str:
    """The shape of a tensor as text, such as `3x64`."""
    return "x".join(map(str, tensor.shape)) or "a scalar"
