"""Which axes of a product q·kᵀ each dimension of a tensor contains, after any views.

A dimension is a tuple of axes, the slowest first, as in einops; a dimension of size 1 may have
none. `view` splits and merges axes. All tensors share the `Axis` objects, so an axis can be split
long after a tensor was made from it.
"""

import math
from collections.abc import Sequence

from torch import Tensor


class Axis:
    """An axis of a product, or a part of one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: tuple[Axis, ...] = ()

    def leaves(self) -> list["Axis"]:
        """The parts that are not split further, the slowest first; none if the size is 1."""
        if self.size == 1:
            return []
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]

    def split(self, outer: int) -> None:
        """Split the axis into two parts, `outer` and the rest; `outer` is the slower one."""
        self.parts = (Axis(outer), Axis(self.size // outer))


Dims = tuple[tuple[Axis, ...], ...]


def leaves(dims: Sequence[Sequence[Axis]]) -> list[Axis]:
    """All unsplit parts of the axes of some dimensions."""
    return [leaf for dim in dims for axis in dim for leaf in axis.leaves()]


def sizes(dims: Dims) -> tuple[int, ...]:
    """The shape of a tensor with these dimensions."""
    return tuple(math.prod(axis.size for axis in dim) for dim in dims)


def regroup(dims: Dims, shape: Sequence[int]) -> Dims | None:
    """The dimensions after a view as `shape`; splits axes where needed. None if it is not a view.

    >>> b, n = Axis(6), Axis(5)
    >>> [len(dim) for dim in regroup(((b,), (n,)), (2, 3, 5))]
    [1, 1, 1]
    """
    remaining = leaves(dims)
    found: list[tuple[Axis, ...]] = []
    for size in shape:
        dim: list[Axis] = []
        have = 1
        while have < size:
            if not remaining or size % have:
                return None
            missing, axis = size // have, remaining.pop(0)
            if axis.size > missing:
                if axis.size % missing:
                    return None
                axis.split(missing)
                remaining[:0] = axis.leaves()
                axis = remaining.pop(0)
            elif missing % axis.size:
                return None
            dim.append(axis)
            have *= axis.size
        found.append(tuple(dim))
    return None if remaining else tuple(found)


def arrange(tensor: Tensor, dims: Dims, order: Sequence[Sequence[Axis]]) -> Tensor:
    """Turn a tensor that broadcasts to `dims` into one that broadcasts to the dimensions `order`.

    The axes of `order` are leaves. An axis that the tensor does not have, or has with size 1, keeps
    size 1 unless it is merged with other axes.
    """
    tensor = tensor.reshape((1,) * (len(dims) - tensor.ndim) + tuple(tensor.shape))
    axes: list[Axis] = []
    sizes: list[int] = []
    for size, dim in zip(tensor.shape, dims, strict=True):
        parts = leaves([dim])
        axes += parts
        sizes += [part.size if size > 1 else 1 for part in parts]
    flat = [leaf for dim in order for leaf in dim]
    missing = [leaf for leaf in flat if leaf not in axes]
    tensor = tensor.reshape([*sizes, *[1] * len(missing)])
    axes += missing
    tensor = tensor.permute([axes.index(leaf) for leaf in flat])
    return _merge(tensor, order)


def _merge(tensor: Tensor, order: Sequence[Sequence[Axis]]) -> Tensor:
    """Merge neighbouring dimensions, one for each axis of `order`, into one for each group."""
    sizes = iter(tensor.shape)
    shape: list[int] = []
    expanded: list[int] = []
    for dim in order:
        have = [next(sizes) for _ in dim]
        one = all(size == 1 for size in have)
        expanded += [1 if one else leaf.size for leaf in dim]
        shape.append(1 if one else math.prod(leaf.size for leaf in dim))
    return tensor.expand(expanded).reshape(shape)
