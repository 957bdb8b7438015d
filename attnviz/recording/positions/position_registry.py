"""Keeps the positions of tensors while a model runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attnviz.recording.operation import Operation, first
from attnviz.recording.positions.pictures import Pictures
from attnviz.recording.positions.position_math import (
    NOWHERE,
    Memo,
    are_equal,
    compact,
    differs_by_feature,
    extended,
    mean_over,
    narrowed,
    same_memory,
    spans_picture,
    varies,
)
from attnviz.recording.tensor_registry import TensorRegistry, covers_storage, shares_memory


def _ignore(_: Tensor) -> None:
    """Nobody asks which values decide about positions."""


class PositionRegistry:
    """Positions of the elements of tensors, starting with pictures (B, C, H, W), or with a clip.

    Attributes:
        pictures: where the pictures lie.
        operators: names of the operators that lost positions; lost elements hold an index of it.
        reshaped: a cache of the rules' results for the same positions.
        on_read: called with tensors of the model whose values decide about positions.
    """

    def __init__(
        self, *pictures: Tensor, time: int | None = None, places: Tensor | None = None
    ) -> None:
        self.operators: list[str] = []
        self.on_read: Callable[[Tensor], None] = _ignore
        self._known: TensorRegistry[Tensor] = TensorRegistry()
        self.pictures = Pictures(pictures, time, places)
        self.height, self.width = self.pictures.height, self.pictures.width
        if len(pictures) > 1:
            self.put_parts(pictures, self.pictures.positions)
        else:
            self._known.put(pictures[0], self.pictures.positions[0])
        self._lost: dict[str, Tensor] = {}
        self._current: dict[int, Tensor | None] = {}
        self._tokens = Memo()
        self._cuts = Memo()
        self.reshaped = Memo()
        self._compared = Memo()
        self._narrowed = Memo()

    def tokens(
        self,
        tensor: Tensor,
        over: int,
        *,
        lay: Callable[[Tensor], Tensor] | None = None,
        weights: bool = False,
    ) -> Tensor | None:
        """Positions of tokens: the mean over the dimension of their channels; None if unknown.

        A token whose mean lies outside of the picture is padding and gets `NOWHERE`.

        Args:
            tensor: what holds the tokens.
            over: the dimension of the channels.
            lay: lays the positions out, before the mean.
            weights: whether these are weights and `over` is their keys: if their positions differ
                by key and extend over the whole picture, they are those of the keys, and the
                queries lie nowhere.
        """
        found = self.get(tensor)
        if found is None:
            return None
        found = found if lay is None else lay(found)
        mean = (centre(self, found, [over]) if weights else mean_over(found, over)).squeeze(over)
        return self._tokens.get(mean, (), lambda: self.pictures.inside(mean))

    def padded(self, positions: Tensor, dim: int, before: int, after: int) -> Tensor:
        """Positions with padding along a dimension; evenly spaced positions are continued.

        So explicit padding gives the same result as a convolution's own padding. The registry notes
        where the content ends, so tokens that are padding lie nowhere later.
        """
        found = extended(positions, dim, before, after)
        size = positions.shape[dim]
        if (before > 0 or after > 0) and size > 1 and positions.stride(dim):
            self.pictures.note_padding(compact(positions), dim)
        return found

    def within(self, positions: Tensor) -> Tensor:
        """Positions of elements; `NOWHERE` for elements outside of the picture."""
        small = compact(positions)
        found = self._cuts.get(small, (), lambda: self.pictures.inside(small))
        return positions if found is small else found.expand(positions.shape)

    def put_parts(self, parts: Sequence[Tensor], found: Sequence[Tensor | None]) -> None:
        """Put positions of tensors; of parts of one storage so that other views are found, too."""
        parts_with = [(part, at) for part, at in zip(parts, found, strict=True) if at is not None]
        for part, positions in parts_with:
            self._known.put(part, positions)
        if not parts_with or not all(shares_memory(parts[0], part) for part in parts):
            return
        flat = self._flat(parts[0])
        for part, positions in parts_with:
            fill(placed(flat, part), positions.expand(part.shape))
        self._known.change(parts[0], (0, tuple(flat.shape), (1,), parts[0].dtype), flat)

    def _flat(self, tensor: Tensor) -> Tensor:
        """Positions for all of a tensor's storage, all `NOWHERE`."""
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        return torch.full((count,), NOWHERE, device=tensor.device)

    def put(self, tensor: Tensor, positions: Tensor) -> None:
        """Set the positions of a tensor's elements, as a tensor that broadcasts to it."""
        self._known.put(tensor, positions.expand(tensor.shape))

    def put_unless_nowhere(self, tensor: Tensor, positions: Tensor) -> None:
        """The same as `put`, unless a rule has found that the whole tensor lies nowhere.

        Where `positions` are nowhere, those that a rule has found stay (class tokens of windows).
        """
        found = self.get(tensor)
        if found is None:
            self.put(tensor, positions)
        elif positions.ndim == found.ndim and varies(found, -1) and not varies(positions, -1):
            return  # values that are whole windows, token beside token
        elif not bool(compact(found).real.isnan().all()):
            empty = compact(positions).real.isnan()
            if bool(empty.any()) and found.ndim == positions.ndim:
                positions = torch.where(empty, compact(found), compact(positions))
            self.put(tensor, positions)

    def get(self, tensor: object) -> Tensor | None:
        """Positions of a tensor's elements; None if it does not come from the picture."""
        if not isinstance(tensor, Tensor):
            return None
        if id(tensor) in self._current:
            return self._current[id(tensor)]
        found, entries = self._known.lookup(tensor)
        return self._in_memory(tensor, entries) if found is None and entries else found

    def spans_picture(self, positions: Tensor, dims: list[int]) -> Tensor:
        """Whether elements along dimensions extend over the whole picture, with keepdim."""
        local = self.pictures.in_picture(positions)
        return spans_picture(local, dims, self.width, self.height)

    def lost(self, operator: str, like: Tensor) -> Tensor:
        """Lost positions with the operator's index."""
        if operator not in self._lost:
            self.operators.append(operator)
            number = len(self.operators) - 1
            self._lost[operator] = torch.full((), complex(float("inf"), number))
        return self._lost[operator].to(like.device).expand(like.shape)

    def are_equal(self, one: Tensor, other: Tensor) -> bool:
        """Whether positions are the same; `NOWHERE` equals `NOWHERE`."""
        return self._compared.get([one, other], None, lambda: are_equal(one, other))

    def narrowed(self, positions: Tensor) -> Tensor:
        """Positions expanded along all dimensions along which they are equal."""
        small = compact(positions)
        return self._narrowed.get(small, (), lambda: narrowed(small)).expand(positions.shape)

    def is_pixels(self, positions: Tensor) -> bool:
        """Whether positions are those of the picture's own pixels, in their order."""
        return self.pictures.are_pixels(positions)

    def is_lost(self, positions: Tensor) -> bool:
        """Whether one operator lost all of a tensor's positions."""
        return any(same_memory(positions, lost) for lost in self._lost.values())

    def of_channels(self, tensor: Tensor) -> bool:
        """Whether the features of (…, tokens, features) have different positions."""
        positions = self.get(tensor)
        return positions is not None and differs_by_feature(positions)

    def _in_memory(self, tensor: Tensor, entries: Mapping[Any, Tensor]) -> Tensor | None:
        """Positions of a view of known memory, if the registry did not see the view's operation."""
        for (offset, shape, stride, dtype), known in entries.items():
            if dtype != tensor.dtype or offset:
                continue
            if len(shape) == 1 and stride == (1,):
                last = tensor.storage_offset() + sum(
                    (size - 1) * step
                    for size, step in zip(tensor.shape, tensor.stride(), strict=True)
                )
                if last < shape[0]:
                    return placed(known, tensor)
            elif (
                known.numel() == tensor.numel() and covers_storage(tensor) and _dense(stride, shape)
            ):
                return known.reshape(tensor.shape) if tensor.is_contiguous() else None
        return None


def centre(registry: PositionRegistry, positions: Tensor, dims: Sequence[int]) -> Tensor:
    """Mean over dimensions, with keepdim; nowhere if they extend over the whole picture."""
    found = mean_over(positions, dims)
    moving = [d for d in dims if varies(positions, d)]
    if not moving:
        return found
    small = compact(positions)
    nowhere = torch.full((), NOWHERE, device=positions.device)
    everywhere = registry.spans_picture(small, moving)
    return torch.where(everywhere, nowhere, compact(found)).expand(found.shape)


def placed(flat: Tensor, tensor: Tensor) -> Tensor:
    """A tensor's view of the flat positions of its storage."""
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def fill(place: Tensor, positions: Tensor) -> None:
    """Write positions into a tensor that may be expanded, so that elements share memory."""
    for dim, step in enumerate(place.stride()):
        if step == 0 and place.shape[dim]:
            place, positions = place.narrow(dim, 0, 1), positions.narrow(dim, 0, 1)
    place.copy_(positions)


def _dense(stride: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a stride reads memory in order."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


Rule = Callable[[PositionRegistry, Operation, Any], Any]
"""A function from the registry, an operation and its result to the result's positions."""


def or_nowhere(registry: PositionRegistry, value: Any, like: Tensor) -> Tensor:
    """Positions of a value, expanded; constants lie nowhere."""
    found = registry.get(value)
    if found is None:
        found = torch.full((), NOWHERE, device=like.device)
    return found.expand(like.shape)


def lies_nowhere(_: PositionRegistry, __: Operation, result: Any) -> Any:
    """A rule for results that are constants, or that depend on the whole picture."""
    result = first(result)
    return (torch.full((), NOWHERE, device=result.device).expand(result.shape),)
