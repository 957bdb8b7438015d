"""Axes followed through views and permutations, against a tensor of indices moved by NumPy."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.recording.axes import Axis, Dims, arrange, leaves, regroup

Draw = st.DataObject


@dataclass
class Moved:
    """An array of its own indices, and what is said of its dimensions.

    `parts` are the sizes of the parts of axes in each dimension, kept apart from `dims`.
    """

    sizes: list[int]
    array: NDArray[np.int64] = field(init=False)
    axes: list[Axis] = field(init=False)
    dims: Dims = field(init=False)
    parts: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.array = np.arange(math.prod(self.sizes)).reshape(self.sizes)
        self.axes = [Axis(size) for size in self.sizes]
        self.dims = tuple((axis,) for axis in self.axes)
        self.parts = [[size] for size in self.sizes]

    def permute(self, draw: Draw) -> None:
        order = draw.draw(st.permutations(range(self.array.ndim)))
        self.array = self.array.transpose(order)
        self.dims = tuple(self.dims[i] for i in order)
        self.parts = [self.parts[i] for i in order]

    def view(self, draw: Draw) -> None:
        """Split parts by a divisor, and let dimensions begin anywhere between parts."""
        flat: list[int] = []
        for size in (size for dim in self.parts for size in dim):
            divisor = draw.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
            flat += [divisor, size // divisor]
        dims: list[list[int]] = [[]]
        for size in flat:
            if draw.draw(st.booleans()):
                dims.append([])
            dims[-1].append(size)
        shape = [math.prod(dim) for dim in dims]
        found = regroup(self.dims, shape)
        assert found is not None
        self.array, self.dims = self.array.reshape(shape), found
        self.parts = [[size for size in dim if size > 1] for dim in dims]

    @property
    def order(self) -> list[list[Axis]]:
        """The axes as they were at first."""
        return [leaves([(axis,)]) for axis in self.axes]


@st.composite
def moved(draw: st.DrawFn) -> Moved:
    """After some views and permutations in turn."""
    found = Moved(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=4)))
    data = draw(st.data())
    for permute in draw(st.lists(st.booleans(), max_size=5)):
        if permute:
            found.permute(data)
        else:
            found.view(data)
    return found


@settings(deadline=None)
@given(moved())
def test_whatever_was_split_merged_and_permuted_is_arranged_back(found: Moved) -> None:
    assert (
        tuple(math.prod(a.size for a in leaves([dim])) for dim in found.dims) == found.array.shape
    )
    back = arrange(torch.from_numpy(found.array.copy()), found.dims, found.order)
    expected = np.arange(math.prod(found.sizes)).reshape(found.sizes)
    np.testing.assert_array_equal(back.numpy(), expected)


@settings(deadline=None)
@given(moved(), st.data())
def test_what_broadcasts_to_a_view_is_arranged_to_broadcast_to_the_axes(
    found: Moved, data: Draw
) -> None:
    shape = [size if data.draw(st.booleans()) else 1 for size in found.array.shape]
    shape = shape[data.draw(st.integers(0, len(shape))) :]
    operand = np.arange(math.prod(shape)).reshape(shape)
    expected = np.empty(math.prod(found.sizes), dtype=np.int64)
    expected[found.array] = np.broadcast_to(operand, found.array.shape)
    laid = arrange(torch.from_numpy(operand), found.dims, found.order).numpy()
    assert laid.ndim == len(found.sizes)
    np.testing.assert_array_equal(np.broadcast_to(laid, found.sizes), expected.reshape(found.sizes))


@settings(deadline=None)
@given(moved(), st.data())
def test_any_other_shape_is_right_or_refused(found: Moved, data: Draw) -> None:
    left = found.array.size
    shape: list[int] = []
    while left > 1 and len(shape) < 5:
        shape.append(data.draw(st.sampled_from([d for d in range(1, left + 1) if left % d == 0])))
        left //= shape[-1]
    shape.append(left)
    dims = regroup(found.dims, shape)
    if dims is None:
        return
    viewed = torch.from_numpy(found.array.reshape(shape).copy())
    back = arrange(viewed, dims, found.order)
    expected = np.arange(math.prod(found.sizes)).reshape(found.sizes)
    np.testing.assert_array_equal(back.numpy(), expected)


def test_a_view_of_another_size_or_across_axes_is_refused() -> None:
    b, n = Axis(6), Axis(5)
    assert regroup(((b,), (n,)), (6, 5, 2)) is None
    assert regroup(((b,), (n,)), (6,)) is None
    assert regroup(((b,), (n,)), (4, 5)) is None
    assert regroup(((n,), (b,)), (6, 5)) is None
    assert regroup(((b,), (n,)), (15, 2)) is None
