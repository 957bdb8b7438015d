"""What a pickle may call: functions that rebuild tensors and containers. All else is inert."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class CallRefused(Exception):  # noqa: N818 — what happened, to a pickle
    """A pickle wants to call something; the message is its name."""


@dataclass(frozen=True)
class Named:
    """A class or a function that a pickle names; it is not imported."""

    name: str


@dataclass(eq=False)
class StandIn:
    """An object of a class that is not imported: its class's name, and what the pickle gives it."""

    kind: str
    arguments: tuple[Any, ...] = ()
    state: dict[Any, Any] = field(default_factory=dict)

    def build(self, state: Any) -> None:
        """Take attributes: a dict, or a pair of dicts, the second of slots."""
        for part in state if isinstance(state, tuple) else (state,):
            self.state |= dict(part) if isinstance(part, dict) else {}

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an entry of a class that is a kind of dict."""
        self.state[key] = value

    def append(self, value: Any) -> None:
        """Leave out an entry of a class that is a kind of list."""

    add = append


@dataclass(frozen=True)
class Storage:
    """Numbers of one type that lie in a file, from a byte on.

    Attributes:
        numbers: one-dimensional tensor of the type; its memory is the file's, until it is written.
    """

    numbers: Tensor


_FORBIDDEN = """
os posix nt subprocess sys shutil socket importlib runpy ctypes pty pickle _pickle marshal
webbrowser code codeop pdb bdb timeit profile cProfile multiprocessing signal platform pip pydoc
_posixsubprocess
"""
"""Modules that no checkpoint needs. Their names are not imported anyway; a file that has them is
refused as a whole."""
_PLAIN = """
list dict tuple int float str bytes bool complex object range slice bytearray type getattr print
set frozenset
"""
"""Names of Python's own that a pickle may have; those that are no classes are never called."""
_LOWER_CASE_CLASSES = """
datetime. collections. numpy.dtype numpy.ndarray numpy.core. numpy._core. numpy.random. uuid.
_codecs.encode functools.partial copyreg._reconstructor builtins.getattr builtins.complex
builtins.bytearray builtins.range builtins.slice torch.device torch.Generator re._compile
torch.jit._pickle.
"""
"""Classes, and functions that make plain values, whose names do not begin with a capital. They are
not called either: a stand-in takes the place of the value."""


def check_name(named: Named) -> Named:
    """A name of a pickle.

    Raises:
        CallRefused: no checkpoint has reason to name it.
    """
    module, _, last = named.name.rpartition(".")
    known = last in _PLAIN.split() or last[:1].isupper()
    if module.partition(".")[0] in _FORBIDDEN.split() or (module == "builtins" and not known):
        raise CallRefused(named.name)
    return named


def call(function: Any, arguments: Any, *, is_class: bool = False) -> Any:
    """The result of a call: a tensor or a container of ours, else a stand-in that nothing made.

    Raises:
        CallRefused: it is a call of a function that is not known to be harmless.
    """
    if not isinstance(function, Named) or not isinstance(arguments, tuple):
        raise CallRefused(getattr(function, "kind", "something that it made itself"))
    name = function.name
    if (known := _CALLS.get(name)) is not None:
        return known(*arguments)
    last = name.rpartition(".")[2]
    if (
        is_class
        or last.lstrip("_")[:1].isupper()
        or name.startswith(tuple(_LOWER_CASE_CLASSES.split()))
    ):
        return StandIn(name, arguments)
    if last.startswith("_rebuild") and name.startswith(("torch.", "torchao.")):
        return StandIn(f"a tensor of torch ({last})", arguments)
    raise CallRefused(name)


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Any:
    """`_rebuild_tensor_v2`: a view of a storage, which must lie inside of it."""
    if not isinstance(storage, Storage):
        return StandIn("a tensor without numbers")
    size, stride = tuple(map(int, size)), tuple(map(int, stride))
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + int(offset)
    if min((*size, *stride, offset), default=0) < 0 or (
        0 not in size and last >= len(storage.numbers)
    ):
        raise ValueError("a tensor lies outside of its storage")
    return storage.numbers.as_strided(size, stride, offset if 0 not in size else 0)


def _retyped(storage: Any, offset: int, size: Any, stride: Any, *others: Any) -> Any:
    """`_rebuild_tensor_v3`: as v2, of a storage of bytes and a number type."""
    if not isinstance(storage, Storage):
        return StandIn("a tensor without numbers")
    return _tensor(Storage(storage.numbers.view(dtype_of(others[2]))), offset, size, stride)


def dtype_of(named: Any) -> torch.dtype:
    """The number type that a pickle names as `torch.float32` or `torch.FloatStorage`.

    Raises:
        ValueError: it names none.
    """
    last = named.name.rpartition(".")[2] if isinstance(named, Named) else ""
    found = getattr(torch, STORAGES.get(last, last), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{last!r} is no number type")
    return found


STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "UntypedStorage": "uint8", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}  # fmt: skip
"""Number types by the names of torch's storages."""


def _sparse(layout: Any, parts: Any, *_: Any) -> Any:
    """`_rebuild_sparse_tensor`: coordinates and values, which are checked."""
    if layout != Named("torch.sparse_coo") or parts[0].is_meta:
        return StandIn("a sparse tensor")
    return torch.sparse_coo_tensor(parts[0], parts[1], tuple(parts[2]), check_invariants=True)


def _subclass(function: Any, _: Any, arguments: Any, state: Any) -> Any:
    """`_rebuild_from_type_v2`: a tensor of a subclass, as a plain tensor."""
    del state
    return call(function, arguments)


def _mapping(*pairs: Any) -> OrderedDict[Any, Any]:
    return OrderedDict(*pairs)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.defaultdict": lambda *_: defaultdict(),
    "builtins.set": lambda values=(): set(values),
    "builtins.frozenset": lambda values=(): frozenset(values),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _retyped,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.serialization._get_layout": lambda name: Named(str(name)),
    "torch.Size": torch.Size,
}
