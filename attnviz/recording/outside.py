"""What a model's Python code may read besides its arguments: attributes, variables, hooks.

A plan of a model holds as long as these are the same. They are compared by `id`, so that comparing
costs little.
"""

import random
import weakref
from collections.abc import Iterator
from dis import get_instructions
from functools import cache
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_CONTAINERS = (list, dict, set)
_VARIABLES = (bool, int, float, str, type(None), Tensor, *_CONTAINERS)
_STILL = frozenset((nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.GELU, nn.SiLU, nn.ReLU))
"""Modules whose attributes neither move tokens nor decide what runs."""
_CALLED = (FunctionType, MethodType, BuiltinFunctionType, type, nn.Module)
"""Classes of what can be called whose code is searched, or runs nothing else."""
_RANDOM = "random"
_DEPTH = 3
"""Functions are searched for variables through so many calls."""


def tree_of(module: nn.Module, forward: Any = None) -> tuple[Any, ...]:
    """A model's parts and every attribute that they hold; hooks are apart.

    `forward` stands for the model's own. This runs before every run of a model, and most of
    its time goes into memory that is not in the cache, so it looks at as little as it can.
    """
    facts = module.__dict__
    found: list[Any] = [forward, *(id(facts[name]) for name in facts if name != "forward")]
    parts = list(facts["_modules"].values())
    found += map(id, parts)
    for part in parts:  # which grows meanwhile
        if part.__class__ in _STILL:
            found.append(len(part.__dict__))  # one more if its `forward` is replaced
        elif part is not None:
            facts = part.__dict__
            found += map(id, facts.values())
            inside = facts["_modules"]
            if inside:
                found += map(id, inside.values())
                parts += inside.values()
    return tuple(found)


class Hooks:
    """The hooks of models; they are looked for again after any hook was registered anywhere."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[nn.Module, tuple[int, tuple[int, ...]]]
        self._found = weakref.WeakKeyDictionary()
        self.own = 0
        """How many hooks attnviz itself has registered, on all modules alike."""

    def of(self, module: nn.Module) -> tuple[int, ...]:
        """The `id` of every hook of a model."""
        registered = RemovableHandle.next_id - self.own
        before, hooks = self._found.get(module, (None, ()))
        if before != registered or hooks:
            facts = (part.__dict__[name] for part in module.modules() for name in _HOOKS)
            hooks = tuple(id(hook) for each in facts for hook in each.values())
            self._found[module] = registered, hooks
        return hooks


HOOKS = Hooks()


def is_foreign(module: nn.Module) -> bool:
    """Whether code from elsewhere runs with a model.

    That is a hook, a `forward` that was replaced, or an object in an attribute that can be called.
    """
    for part in module.modules():
        facts = part.__dict__
        called = (facts[name] for name in facts if part is not module or name != "forward")
        if any(facts[name] for name in _HOOKS) or ("forward" in facts and part is not module):
            return True
        if any(callable(each) and not isinstance(each, _CALLED) for each in called):
            return True
    return False


class Variables:
    """Variables that a model's code reads: of its file, of functions around it, in attributes.

    Attributes in containers and objects such as configurations count, too.

    Attributes:
        random: whether the code draws random numbers of Python's or of NumPy's.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        held = {
            id(value): (weakref.ref(part), name)
            for part in parts
            for name, value in part.__dict__.items()
            if not (name.startswith("_") or callable(value) or isinstance(value, Tensor))
            and (isinstance(value, _CONTAINERS) or hasattr(value, "__dict__"))
        }  # whether an attribute is still the same object is what `tree_of` compares
        self._parts = list(held.values())
        kinds = {kind for part in parts for kind in type(part).__mro__}
        own = [kind for kind in kinds if kind.__module__.split(".")[0] not in {"torch", "builtins"}]
        readers = {key: read for kind in own for key, read in _read_by(kind)}
        for part in parts:
            for value in part.__dict__.values():
                function = getattr(value, "__func__", value)
                if isinstance(function, FunctionType):
                    readers |= _variables(function, set(), _DEPTH)
        self.random = readers.pop(_RANDOM, None) is not None
        self._readers = list(readers.values())
        self._before = self._now()

    def changed(self) -> bool:
        """Whether any variable is another than at first."""
        return self._before != self._now()

    def _now(self) -> list[Any]:
        found = [
            _content(read.cell_contents if isinstance(read, CellType) else read[0].get(read[1]))
            for read in self._readers
        ]
        for weak, name in self._parts:
            part = weak()
            found.append(None if part is None else _content(part.__dict__.get(name)))
        return found


def _content(value: Any) -> Any:
    """What an attribute or a variable holds, to compare."""
    if isinstance(value, dict):
        return id(value), tuple(map(id, value.values()))
    if isinstance(value, list | set):
        return id(value), tuple(map(id, value))
    facts = getattr(value, "__dict__", None)
    if isinstance(facts, dict) and not isinstance(value, type | FunctionType):
        return id(value), tuple(map(id, facts.values()))
    return id(value)


@cache
def _read_by(kind: type) -> tuple[Any, ...]:
    """The variables that the methods of a class read."""
    functions = [each for each in vars(kind).values() if isinstance(each, FunctionType)]
    seen: set[int] = set()
    return tuple(each for function in functions for each in _variables(function, seen, _DEPTH))


def _variables(function: FunctionType, seen: set[int], depth: int) -> Iterator[tuple[Any, Any]]:
    """Variables that a function reads, and the functions that it calls."""
    if id(function) in seen or not depth or function.__module__.split(".")[0] == "torch":
        return
    seen.add(id(function))
    outer = function.__globals__
    inside: list[FunctionType] = []
    if "random" in function.__code__.co_names:
        yield _RANDOM, True
    for each in get_instructions(function.__code__):
        if each.opname in {"LOAD_GLOBAL", "LOAD_NAME"} and each.argval in outer:
            value = outer[each.argval]
            if isinstance(value, FunctionType):
                inside.append(value)
            elif getattr(value, "__self__", None).__class__ is random.Random:
                yield _RANDOM, True
            elif isinstance(value, _VARIABLES):
                yield (id(outer), each.argval), (outer, each.argval)
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # empty
            continue
        if isinstance(value, FunctionType):
            inside.append(value)
        elif isinstance(value, _VARIABLES):
            yield id(cell), cell
    for each_function in inside:
        yield from _variables(each_function, seen, depth - 1)
