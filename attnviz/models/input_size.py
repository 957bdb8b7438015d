"""How large a model's input is: what its module says, and what its parameters are made for."""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from attnviz.errors import ModelError
from attnviz.models.preprocessing import flatten, shown

Shape = tuple[int, int]
"""Height and width of an input in pixels."""
MULTIPLE = 32
"""What sides are rounded to where nothing says."""
_CHANNELS = (1, 3, 4)
_LARGEST, _MOST = 4096, 6
_EXTRA = (0, 1, 2, 5)
"""Tokens that stand beside the grid in a position embedding: class, distillation, registers."""


def stated_shape(said: dict[str, Any]) -> Shape | None:
    """The input that a module says it has; None where it says nothing.

    Args:
        said: `input_size`, `image_size` or `img_size`: a side, (height, width), (channels, height,
            width), or a dict of `height` and `width`.

    Raises:
        ModelError: it is no such size.
    """
    for name in ("input_size", "image_size", "img_size"):
        if name in said:
            sides = _sides(said[name], name, "a number or (height, width)")
            if len(sides) == 3:
                # Channels first, as timm has them, unless they are seen to be last.
                last = sides[2] in _CHANNELS and sides[0] not in _CHANNELS
                sides = sides[:2] if last else sides[1:]
            return sides[0], sides[-1]
    return None


def multiple(model: nn.Module, said: dict[str, Any]) -> int:
    """What the sides of the input are rounded to: what a module says, or embeds patches by.

    Raises:
        ModelError: its `patch_size` is no size.
    """
    if "patch_size" in said:
        return math.lcm(*_sides(said["patch_size"], "patch_size", "a number or (height, width)"))
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        return next(_linear_patches(model), MULTIPLE)
    first = next((part for part in convolutions if part.in_channels == 3), convolutions[0])
    return math.lcm(*first.stride) if first.kernel_size == first.stride else MULTIPLE


def exported_shape(model: nn.Module) -> Shape | None:
    """The input that a program of `torch.export` was made for; None of any other module."""
    for node in getattr(getattr(model, "graph", None), "nodes", ()):
        shape = getattr(node.meta.get("val"), "shape", ()) if node.op == "placeholder" else ()
        if len(shape) == 4 and all(type(side) is int for side in shape[2:]):
            return int(shape[2]), int(shape[3])
    return None


def fitting_shapes(model: nn.Module, patch: int, prefix: int) -> tuple[Shape, ...]:
    """Inputs that a module may be made for, by the position embeddings that it has."""
    return _shapes(_grids(model, prefix), _patches(model, patch))


def shapes_in(text: str, model: nn.Module, patch: int, prefix: int) -> tuple[Shape, ...]:
    """Inputs that an error may speak of: sides of pixels, or numbers of tokens."""
    patches = _patches(model, patch)
    pairs = re.findall(r"(\d+)\s*[*x×,]\s*(\d+)", text)
    found = [(int(height), int(width)) for height, width in pairs]
    numbers = [int(number) for number in dict.fromkeys(re.findall(r"\d+", text)) if len(number) < 8]
    found += [(side, side) for side in numbers if side % patch == 0 and side > patch]
    grids = [grid for number in numbers for grid in _square(number, prefix)]
    return tuple(dict.fromkeys([*filter(_is_usable, found), *_shapes(grids, patches)]))


def position_count(model: nn.Module) -> tuple[str, int] | None:
    """Name and number of tokens of the first position embedding, if there is one."""
    for name, tensor in _tensors(model):
        if _is_of_positions(name) and tensor.ndim in (2, 3):
            return name, max(tensor.shape[:-1])
    return None


def _sides(value: Any, name: str, wanted: str) -> list[int]:
    """One side or more, of numbers, arrays or a dict."""
    if isinstance(value, dict):
        value = [value[side] for side in ("height", "width") if side in value] or list(
            value.values()
        )
    sides = flatten(value, float)
    if not sides or len(sides) > 3 or any(side < 1 or side != int(side) for side in sides):
        raise ModelError(f"its {name} is {shown(value)}; make it {wanted}, in pixels")
    return [int(side) for side in sides]


def _linear_patches(model: nn.Module) -> Iterator[int]:
    """Sides of square patches of three channels that a first linear layer takes in one piece."""
    first = next((part for part in model.modules() if isinstance(part, nn.Linear)), None)
    side = math.isqrt(first.in_features // 3) if first is not None else 0
    if first is not None and side > 1 and 3 * side * side == first.in_features:
        yield side


def _patches(model: nn.Module, patch: int) -> list[int]:
    """Sides that patches may have: as known, and those of kernels over pixels.

    Of a scripted module the kernels are all that can be seen.
    """
    kernels = (tensor.shape for _, tensor in _tensors(model) if tensor.ndim == 4)
    sides = [k[2] for k in kernels if k[1] in (1, 3) and k[2] == k[3] and k[2] > 3]
    return list(dict.fromkeys([patch, *sides[:2]]))


def _grids(model: nn.Module, prefix: int) -> Iterator[Shape]:
    """Rows and columns that position embeddings have, those that are called so first."""
    tensors = [(name, tensor) for name, tensor in _tensors(model) if tensor.ndim in (2, 3, 4)]
    for name, tensor in sorted(tensors, key=lambda each: not _is_of_positions(each[0])):
        shape = tuple(tensor.shape)
        if "rel" in name or "bias" in name:  # of pairs of tokens
            continue
        if len(shape) == 4 and shape[0] == 1 and _is_of_positions(name):
            yield from ((shape[2], shape[3]), (shape[1], shape[2]))
        elif (len(shape) == 3 and 1 in shape[:2]) or (len(shape) == 2 and _is_table(model, name)):
            yield from _square(max(shape[:-1]), prefix)


def _square(tokens: int, prefix: int) -> Iterator[Shape]:
    """Square grids of so many tokens with others beside them."""
    for extra in dict.fromkeys((prefix, *_EXTRA)):
        side = math.isqrt(max(0, tokens - extra))
        if side > 1 and side * side == tokens - extra:
            yield side, side


def _shapes(grids: Iterable[Shape], patches: list[int]) -> tuple[Shape, ...]:
    """Grids in pixels, the first few."""
    found = (
        (rows * patch, columns * patch) for rows, columns in dict.fromkeys(grids) for patch in patches
    )
    return tuple(dict.fromkeys(filter(_is_usable, found)))[:_MOST]


def _is_usable(shape: Shape) -> bool:
    return all(2 <= side <= _LARGEST for side in shape)


def _is_of_positions(name: str) -> bool:
    return "pos" in name.lower() and "rel" not in name and "bias" not in name


def _is_table(model: nn.Module, name: str) -> bool:
    """Whether a matrix is looked up by number, or is called one of positions."""
    owner = name.rpartition(".")[0]
    return _is_of_positions(name) or isinstance(model.get_submodule(owner), nn.Embedding)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
