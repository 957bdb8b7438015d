"""Finds a model's input size from what its module states and what its parameters fit."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError
from attnviz.geometry.grid import Patch, patch_of, sides
from attnviz.models.preprocessing import flatten, shown

Shape = tuple[int, int]
"""Height and width of an input in pixels."""
MULTIPLE = 32
"""Sides are rounded to multiples of this if the module states nothing."""
_CHANNELS = (1, 3, 4)
_LARGEST, _MOST = 4096, 6
_EXTRA = (0, 1, 2, 5)
"""Numbers of tokens beside the grid in a position embedding: class, distillation, registers."""


def stated_shape(statements: dict[str, Any]) -> Shape | None:
    """The input shape that a module states; None if it states nothing.

    Args:
        statements: `input_size`, `image_size` or `img_size`: a side, (height, width), (channels,
            height, width), or a dict of `height` and `width`.

    Raises:
        ModelError: the statement is not a size.
    """
    for name in ("input_size", "image_size", "img_size"):
        if name in statements:
            sides = _sides(statements[name], name, "a number or (height, width)")
            if len(sides) == 3:
                # Channels come first, as in timm, unless the numbers show that they come last.
                last = sides[2] in _CHANNELS and sides[0] not in _CHANNELS
                sides = sides[:2] if last else sides[1:]
            return sides[0], sides[-1]
    return None


def multiple(model: nn.Module, statements: dict[str, Any]) -> Patch:
    """Sides of the input are rounded to multiples of this: stated, or the patch embedding's stride.

    Raises:
        ModelError: its `patch_size` is not a size.
    """
    if "patch_size" in statements:
        found = _sides(statements["patch_size"], "patch_size", "a number or (height, width)")
        return patch_of(*found) if len(found) == 2 else math.lcm(*found)
    convolutions = list(_convolutions(model))
    if not convolutions:
        return next((side for channels, side in linear_patches(model) if channels == 3), MULTIPLE)
    first = next((each for each in convolutions if each.channels == 3), convolutions[0])
    return patch_of(*first.stride) if first.kernel == first.stride else MULTIPLE


def channel_count(model: nn.Module) -> int:
    """Channels of the input: those of a convolution that is the first to have weights, else 3.

    >>> channel_count(nn.Sequential(nn.Conv2d(1, 8, 4, 4), nn.Linear(8, 8)))
    1
    """
    layers = (
        part for part in model.modules() if next(part.parameters(recurse=False), None) is not None
    )
    weighted = [part for part in layers if isinstance(part, nn.Conv2d | nn.Linear)]
    first = weighted[0] if weighted else None
    if not isinstance(first, nn.Conv2d) or any(each.channels == 3 for each in _convolutions(model)):
        return 3
    return first.in_channels


def exported_shape(model: nn.Module) -> Shape | None:
    """The input shape that a `torch.export` program was made for; None for other modules."""
    for node in graph_nodes(model):
        shape = _shape_of(node) if node.op == "placeholder" else ()
        if len(shape) == 4 and all(type(side) is int for side in shape[2:]):
            return int(shape[2]), int(shape[3])
    return None


def graph_nodes(model: nn.Module) -> list[Any]:
    """Operations of a `torch.export` program; empty for other modules."""
    return list(model.graph.nodes) if isinstance(model, torch.fx.GraphModule) else []


def linear_patches(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Channels and side of the flattened patches that a first linear layer may take.

    Candidates of three channels come first.
    """
    first = next((part for part in model.modules() if isinstance(part, nn.Linear)), None)
    for channels in (3, 1, 4, 6, 2):
        side = math.isqrt(first.in_features // channels) if first is not None else 0
        if first is not None and side > 1 and channels * side * side == first.in_features:
            yield channels, side


def fitting_shapes(model: nn.Module, patch: Patch, prefix: int) -> tuple[Shape, ...]:
    """Input shapes that a module's position embeddings may be made for."""
    return _shapes(_grids(model, prefix), _patches(model, patch))


def position_shape(model: nn.Module, patch: Patch, prefix: int) -> Shape | None:
    """The input shape that the position embedding is made for; None if its grid is not square.

    >>> from torch import zeros
    >>> model = nn.Module()
    >>> model.pos_embed = nn.Parameter(zeros(1, 197, 8))
    >>> position_shape(model, 16, 1)
    (224, 224)
    """
    found = _shapes(_grids(model, prefix, named=True), [patch])
    return found[0] if found else None


def shapes_in(
    texts: Sequence[str], model: nn.Module, patch: Patch, prefix: int
) -> tuple[Shape, ...]:
    """Input shapes that error messages may mention, as sides in pixels or as numbers of tokens.

    Of several errors, on different input shapes, only what all mention counts: the model's own.
    """
    pairs = _common([re.findall(r"(\d+)\s*[*x×,]\s*(\d+)", text) for text in texts])
    found = [(int(height), int(width)) for height, width in pairs]
    largest = math.lcm(*sides(patch))
    numbers = [int(n) for n in _common([re.findall(r"\d+", text) for text in texts]) if len(n) < 6]
    found += [(side, side) for side in numbers if side % largest == 0 and side > largest]
    grids = [grid for number in numbers for grid in square_grids(number, prefix)]
    tokens = _shapes(grids, _patches(model, patch))
    return tuple(dict.fromkeys([*filter(_is_usable, found), *tokens]))[:_MOST]


def _common(found: Sequence[Sequence[Any]]) -> list[Any]:
    """Items that are in all lists, in the order of the first list."""
    return [each for each in dict.fromkeys(found[0]) if all(each in other for other in found)]


def square_grids(tokens: int, prefix: int) -> Iterator[Shape]:
    """Square grids that `tokens` tokens may form with other tokens beside them."""
    for extra in dict.fromkeys((prefix, *_EXTRA)):
        side = math.isqrt(max(0, tokens - extra))
        if side > 1 and side * side == tokens - extra:
            yield side, side


def position_count(model: nn.Module) -> tuple[str, int] | None:
    """Name and number of tokens of the first position embedding; None if there is none."""
    for name, tensor in _tensors(model):
        if _is_of_positions(name) and tensor.ndim in (2, 3):
            return name.removesuffix(".weight"), max(tensor.shape[:-1])
    return None


def _sides(value: Any, name: str, expected: str) -> list[int]:
    """One or more sides from numbers, arrays or a dict."""
    if isinstance(value, dict):
        value = [value[side] for side in ("height", "width") if side in value] or list(
            value.values()
        )
    sides = flatten(value, float)
    if not sides or len(sides) > 3 or any(side < 1 or side != int(side) for side in sides):
        raise ModelError(f"its {name} is {shown(value)}; make it {expected}, in pixels")
    return [int(side) for side in sides]


class _Convolution(NamedTuple):
    """The facts about a convolution that show whether it embeds patches."""

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]


def _convolutions(model: nn.Module) -> Iterator[_Convolution]:
    """Convolutions over height and width, as modules or as operations of an exported program.

    Of one over time, too, height and width count.
    """
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            yield _Convolution(part.in_channels, part.kernel_size[-2:], part.stride[-2:])
    for node in graph_nodes(model):
        if node.target is torch.ops.aten.conv2d.default:
            _, channels, *kernel = _shape_of(node.args[1])
            stride = tuple(node.args[3]) if len(node.args) > 3 else (1, 1)
            yield _Convolution(channels, tuple(kernel), stride * (2 // len(stride)))


def _shape_of(node: Any) -> tuple[Any, ...]:
    """Output shape of an operation of an exported program."""
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _patches(model: nn.Module, patch: Patch) -> list[Patch]:
    """The patches that may be: the known one, and those of kernels and linear layers.

    In a scripted module only the kernels are visible.
    """
    kernels = [tuple(tensor.shape) for _, tensor in _tensors(model) if tensor.ndim == 4]
    found = [k[2] for k in kernels if k[1] in (1, 3) and k[2] == k[3] and k[2] > 3]
    if not kernels:
        found = [side for _, side in linear_patches(model)]
    return list(dict.fromkeys([patch, *found[:2]]))


def _grids(model: nn.Module, prefix: int, *, named: bool = False) -> Iterator[Shape]:
    """Grids of position embeddings; those named as such come first, or alone if `named`."""
    tensors = [(name, tensor) for name, tensor in _tensors(model) if tensor.ndim in (2, 3, 4)]
    for name, tensor in sorted(tensors, key=lambda each: not _is_of_positions(each[0])):
        shape = tuple(tensor.shape)
        of_pairs = "rel" in name or "bias" in name
        if of_pairs or (named and not _is_of_positions(name)):
            continue
        if len(shape) == 4 and shape[0] == 1 and _is_of_positions(name):
            yield from ((shape[2], shape[3]), (shape[1], shape[2]))
        elif (len(shape) == 3 and 1 in shape[:2]) or (len(shape) == 2 and _is_table(model, name)):
            yield from square_grids(max(shape[:-1]), prefix)


def _shapes(grids: Iterable[Shape], patches: list[Patch]) -> tuple[Shape, ...]:
    """The first few grids as input shapes in pixels."""
    pairs = itertools.product(dict.fromkeys(grids), patches)
    found = (
        (rows * height, columns * width)
        for (rows, columns), (height, width) in ((grid, sides(patch)) for grid, patch in pairs)
    )
    return tuple(dict.fromkeys(filter(_is_usable, found)))[:_MOST]


def _is_usable(shape: Shape) -> bool:
    return all(2 <= side <= _LARGEST for side in shape)


def _is_of_positions(name: str) -> bool:
    return "pos" in name.lower() and "rel" not in name and "bias" not in name


def _is_table(model: nn.Module, name: str) -> bool:
    """Whether a matrix is an embedding table, or is named as one of positions."""
    owner = name.rpartition(".")[0]
    return _is_of_positions(name) or isinstance(model.get_submodule(owner), nn.Embedding)


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
