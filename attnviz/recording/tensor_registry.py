"""A registry of values for tensors, by the memory that the tensors use.

A tensor's Python object does not identify it, because autograd makes a new object for every view.
Its place in its storage does.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")
_Place = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]
_PURGE = 32
"""The registry removes freed storages after this many new ones."""


class TensorRegistry(Generic[T]):
    """Values by tensor; a value is removed when the tensor's storage is freed.

    >>> known = TensorRegistry[str]()
    >>> known.put(pixels, "the picture")
    >>> known.get(pixels.view_as(pixels))
    'the picture'
    """

    def __init__(self) -> None:
        self._found: dict[int, tuple[StorageWeakRef, dict[_Place, T]]] = {}
        self._purge_at = _PURGE

    def get(self, tensor: object) -> T | None:
        """The value for exactly these elements in this order."""
        # Several trackers call this for every argument of every operation, so it is written inline.
        if not self._found or not isinstance(tensor, Tensor):
            return None
        storage = _storage(tensor)
        found = None if storage is None else self._found.get(storage)
        if found is None or not found[1] or _gone(found[0]):
            return None
        return found[1].get(_place(tensor))

    def lookup(self, tensor: Tensor) -> tuple[T | None, dict[_Place, T]]:
        """The value for exactly these elements, and all values for tensors in the same storage."""
        entries = self._storage(tensor)
        return (None, {}) if not entries else (entries.get(_place(tensor)), entries)

    def of_storage(self, tensor: object) -> Iterator[tuple[_Place, T]]:
        """All places and values of tensors that share memory with this one."""
        yield from list((self._storage(tensor) or {}).items())

    def values(self) -> Iterator[T]:
        """All values of tensors whose storage still exists."""
        for weak, entries in list(self._found.values()):
            if not _gone(weak):
                yield from entries.values()

    def put(self, tensor: Tensor, value: T) -> None:
        """Set the value of a tensor."""
        storage = _storage(tensor)
        if storage is None:
            return
        if self._storage(tensor) is None:
            if len(self._found) >= self._purge_at:
                self._purge()
            self._found[storage] = (_weak(tensor), {})
        self._found[storage][1][_place(tensor)] = value

    def change_all(self, change: Callable[[T], T]) -> None:
        """Change the value of every tensor whose storage still exists."""
        for weak, entries in self._found.values():
            if not _gone(weak):
                entries.update({place: change(value) for place, value in entries.items()})

    def change(self, tensor: Tensor, place: _Place, value: T) -> None:
        """Change the value of a place in the tensor's storage."""
        entries = self._storage(tensor)
        if entries is not None:
            entries[place] = value

    def drop(self, tensor: Tensor, place: _Place) -> None:
        """Remove the value of a place in the tensor's storage."""
        (self._storage(tensor) or {}).pop(place, None)

    def discard(self, condition: Callable[[T], bool]) -> None:
        """Remove all values for which a condition holds."""
        for _, entries in self._found.values():
            for place in [place for place, value in entries.items() if condition(value)]:
                del entries[place]

    def forget(self, tensor: Tensor) -> None:
        """Remove all values for the tensor's memory, after a write to it."""
        storage = _storage(tensor)
        if storage is not None:
            self._found.pop(storage, None)

    def _storage(self, tensor: object) -> dict[_Place, T] | None:
        if not self._found or not isinstance(tensor, Tensor):
            return None
        storage = _storage(tensor)
        found = None if storage is None else self._found.get(storage)
        return None if found is None or _gone(found[0]) else found[1]

    def _purge(self) -> None:
        self._found = {key: found for key, found in self._found.items() if not _gone(found[0])}
        self._purge_at = len(self._found) + _PURGE


def shares_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors use the same storage."""
    storage = _storage(one)
    return storage is not None and storage == _storage(other)


def covers_storage(tensor: Tensor) -> bool:
    """Whether a tensor contains every element of its storage exactly once."""
    elements = tensor.untyped_storage().nbytes() // tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.numel() == elements and all(step for size, step in steps if size > 1)


def clone_if_aliased(tensor: Tensor, written: Tensor) -> Tensor:
    """A tensor, copied if it shares memory with one that is about to be overwritten."""
    return tensor.clone() if shares_memory(tensor, written) else tensor


def _weak(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _gone(storage: StorageWeakRef) -> bool:
    return bool(_EXPIRED(storage.cdata))


_EXPIRED = torch.UntypedStorage._expired  # noqa: SLF001 — what `StorageWeakRef.expired` calls


def _storage(tensor: Tensor) -> int | None:
    """Address of a tensor's storage; None if it has none (sparse tensors, wrappers)."""
    try:
        address: int = tensor.untyped_storage()._cdata  # noqa: SLF001 — as torch's weak references
    except (NotImplementedError, RuntimeError):
        return None
    return address


def _place(tensor: Tensor) -> _Place:
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype  # type: ignore[return-value]
