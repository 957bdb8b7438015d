"""What a model's Python code reads besides its arguments.

That is variables of its file and of functions around it, attributes of its classes, and what is
inside of lists, dictionaries and configurations that it holds.
"""

import random
import sys
from collections.abc import Iterator
from dis import get_instructions
from functools import lru_cache, partial
from types import CellType, CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any

from torch import Tensor, nn

from attnviz.recording.outside import Kept, attributes_of

_CONTAINERS = (list, dict, set, tuple)
_NOT_ENTERED = (type, FunctionType, ModuleType, nn.Module, Tensor)
_RANDOM = "random"
_DEPTH = 3
"""Functions are searched for variables through so many calls."""
_LEVELS = 3
"""Containers and configurations are compared so many levels deep."""
_MANY = 64
"""A container inside of another one is compared if it has at most so many elements."""
_AT_MOST = 400
"""So many containers of a model are compared."""
_VARIABLE = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"))
_ATTRIBUTE = frozenset(("LOAD_ATTR", "LOAD_METHOD"))
_BETWEEN = frozenset(("CACHE", "PUSH_NULL", "EXTENDED_ARG", "PRECALL", "NOP"))
_REPLACED = "scaled_dot_product_attention"
"""What attnviz itself replaces."""

Reader = tuple[Any, str]
"""A dictionary of variables, and the name of one."""


class Variables:
    """Variables that a model's code reads; `forward` is one that the model was given.

    Attributes:
        random: whether the code draws random numbers of Python's or of NumPy's.
    """

    def __init__(self, module: nn.Module, forward: Any = None) -> None:
        self._kept = Kept()
        attributes = attributes_of(module, forward)
        self._kept.add(*module.modules(), *attributes)
        kinds = {kind for part in module.modules() for kind in type(part).__mro__}
        own = [kind for kind in kinds if _file(kind) not in {"torch", "builtins"}]
        search = _Search()
        for each in attributes:
            search.function(_function_of(each), _DEPTH)
        search.classes(own)
        self.random = search.random
        self._named, self._cells = list(search.named.values()), list(search.cells.values())
        inside: dict[int, Any] = {}
        read = self._read()
        for each in (*attributes, *(each for each in read if isinstance(each, _CONTAINERS))):
            _enter(each, _LEVELS, inside)
        changing = (each for each in inside.values() if not isinstance(each, tuple))
        self._inside, self._kinds = list(changing), own
        self._kept.add(*own, *read)
        for each in self._inside:
            self._kept.add(*each, *(each.values() if isinstance(each, dict) else ()))
        self._before = self._now()

    def changed(self) -> bool:
        """Whether any variable is another than at first."""
        return bool(self._kept.ended) or self._before != self._now()

    def _read(self) -> list[Any]:
        """The values of variables."""
        found = [facts.get(name) for facts, name in self._named]
        found += [_content(cell) for cell in self._cells]
        return found

    def _now(self) -> list[int]:
        found = [*map(id, self._read()), *(len(kind.__dict__) for kind in self._kinds)]
        for each in self._inside:
            found.append(len(each))
            found += map(id, each)
            if isinstance(each, dict):
                found += map(id, each.values())
        return found


class _Search:
    """Searches functions, and those that they call, for variables."""

    def __init__(self) -> None:
        self.named: dict[Any, Reader] = {}
        self.cells: dict[int, CellType] = {}
        self.random = False
        self._seen: dict[int, int] = {}
        self._names = {"forward"}

    def classes(self, kinds: list[type]) -> None:
        """Search the members of classes that `forward` may reach, by their names."""
        done: set[tuple[type, str]] = set()
        while True:
            found = [
                (kind, name)
                for kind in kinds
                for name in kind.__dict__
                if (name in self._names or _is_called_unnamed(name)) and (kind, name) not in done
            ]
            if not found:
                return
            for kind, name in found:
                member = self._variable(kind, kind.__dict__, name)
                self.function(_function_of(member), _DEPTH)
            done.update(found)

    def function(self, function: Any, depth: int) -> None:
        """Search a function; what is no function has nothing to search."""
        if not isinstance(function, FunctionType) or _file(function) == "torch":
            return
        if self._seen.get(id(function), 0) >= depth:
            return
        self._seen[id(function)] = depth
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
        self._names |= _names(function.__code__)
        values = []
        for name, *attributes in _reads(function.__code__):
            if name == _RANDOM or _RANDOM in attributes:
                self.random = True
            if name in cells:
                value = _content(cells[name])
            elif name in function.__globals__:
                value = self._variable(function.__globals__, function.__globals__, name)
            else:
                continue
            values += [value, *self._attributes(value, attributes)]
        for cell in cells.values():
            self.cells[id(cell)] = cell
            values.append(_content(cell))
        for value in values:
            self.random |= getattr(value, "__self__", None).__class__ is random.Random
            self.function(_function_of(value), depth - 1)

    def _variable(self, owner: Any, facts: Any, name: str) -> Any:
        self.named.setdefault((id(owner), name), (facts, name))
        return facts.get(name)

    def _attributes(self, value: Any, names: list[str]) -> Iterator[Any]:
        """The attributes behind a variable, as far as they lie in objects themselves."""
        for name in names:
            facts = getattr(value, "__dict__", None)
            if not isinstance(facts, dict | MappingProxyType) or value is sys or name == _REPLACED:
                return
            value = self._variable(value, facts, name)
            yield value


@lru_cache(maxsize=4096)
def _reads(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """The names that code reads from outside, each with the attributes that follow it."""
    found: dict[tuple[str, ...], None] = {}
    chain: tuple[str, ...] = ()
    for each in get_instructions(code):
        if each.opname in _BETWEEN:
            continue
        if chain and each.opname in _ATTRIBUTE:
            chain = (*chain, each.argval)
            continue
        found[chain] = None
        chain = (each.argval,) if each.opname in _VARIABLE else ()
    found[chain] = None
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    found |= dict.fromkeys(reads for each in inner for reads in _reads(each))
    if _RANDOM in code.co_names:
        found[_RANDOM,] = None
    found.pop((), None)
    return tuple(found)


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> frozenset[str]:
    """All names in code, and all texts, by which `getattr` may find something."""
    texts = [each for each in code.co_consts if isinstance(each, str)]
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return frozenset((*code.co_names, *texts)).union(*inner)


def _is_called_unnamed(name: str) -> bool:
    """Whether Python calls a method of this name without naming it, such as `__call__`."""
    return name.startswith("__") and name not in {"__init__", "__doc__", "__module__", "__dict__"}


def _file(what: Any) -> str:
    """The package of a class or a function."""
    return (what.__module__ or "").split(".")[0]


def _function_of(value: Any) -> Any:
    """The function behind a method, a property or a partial."""
    if isinstance(value, partial):
        value = value.func
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value)


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _enter(value: Any, levels: int, found: dict[int, Any]) -> None:
    """Collect what can change inside of a value: its containers, and the attributes of objects."""
    inside: Any
    if isinstance(value, _CONTAINERS):
        inside = value
    else:
        inside = getattr(value, "__dict__", None)
        if isinstance(value, _NOT_ENTERED) or callable(value) or not isinstance(inside, dict):
            return
    if id(inside) in found or len(found) >= _AT_MOST:
        return
    if levels < _LEVELS and isinstance(value, _CONTAINERS) and len(inside) > _MANY:
        return
    found[id(inside)] = inside
    if levels > 1:
        for each in inside.values() if isinstance(inside, dict) else inside:
            _enter(each, levels - 1, found)
