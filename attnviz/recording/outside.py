"""What a model is made of, to compare: its parts, all that they hold, and hooks.

A plan of a model holds as long as these are the same. They are compared by `id`, so that comparing
costs little; `Kept` sees to it that no other object gets the `id` of one that is gone.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as global_hooks
from torch.utils.hooks import RemovableHandle

PLANS_NAME = "_attnviz_plans"
"""The name under which a model keeps its plans."""
_NOT_OF_MODEL = frozenset(("forward", PLANS_NAME))
"""What a model's own `__dict__` holds while it is recorded, and what is no part of the model."""
_OF_MODULES = frozenset(nn.Module().__dict__)
"""What PyTorch itself keeps in a module, for as long as it lives."""
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_STILL = frozenset((nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, nn.GELU, nn.SiLU, nn.ReLU))
"""Modules whose attributes neither move tokens nor decide what runs."""
_CALLED = (FunctionType, MethodType, BuiltinFunctionType, type, nn.Module)
"""Classes of what can be called whose code is searched, or runs nothing else."""


def tree_of(module: nn.Module, forward: Any = None) -> tuple[Any, ...]:
    """A model's parts, their classes, and every attribute that they hold; hooks are apart.

    `forward` stands for the model's own. This runs before every run of a model, and most of
    its time goes into memory that is not in the cache, so it looks at as little as it can.
    """
    facts = module.__dict__
    found: list[Any] = [id(forward), module.__class__]
    found += [id(facts[name]) for name in facts if name not in _NOT_OF_MODEL]
    parts = list(facts["_modules"].values())
    found += map(id, parts)
    for part in parts:  # which grows meanwhile
        kind = part.__class__
        if kind in _STILL:
            found.append(len(part.__dict__))  # one more if its `forward` is replaced
        elif part is not None:
            facts = part.__dict__
            found.append(kind)
            found += map(id, facts.values())
            inside = facts["_modules"]
            if inside:
                found += map(id, inside.values())
                parts += inside.values()
    return tuple(found)


def attributes_of(module: nn.Module, forward: Any) -> list[Any]:
    """What the parts of a model hold besides parts, tensors and hooks; `forward` is its own."""
    found = [] if forward is None else [forward]
    for part in module.modules():
        hidden = _OF_MODULES | _NOT_OF_MODEL if part is module else _OF_MODULES
        found += [value for name, value in part.__dict__.items() if name not in hidden]
    return found


class Kept:
    """Keeps objects, so that their `id` stays theirs. Modules are not kept from being freed.

    Attributes:
        ended: not empty if such a module is gone.
    """

    def __init__(self) -> None:
        self.ended: list[Any] = []
        self._objects: dict[int, Any] = {}

    def add(self, *values: Any) -> None:
        """Keep these objects."""
        for value in values:
            if isinstance(value, nn.Module):
                self._objects[id(value)] = weakref.ref(value, self.ended.append)
            else:
                self._objects[id(value)] = value


class Hooks:
    """The hooks of models; they are looked for again after any hook was registered anywhere."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[nn.Module, tuple[int, tuple[int, ...]]]
        self._found = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._made = 0
        self._own: set[int] = set()

    def registered(self, *register: Callable[[], RemovableHandle]) -> list[RemovableHandle]:
        """Register hooks of attnviz; they do not count as hooks of any model."""
        with self._lock:
            handles = [each() for each in register]
            self._made += len(handles)
            self._own.update(handle.id for handle in handles)
        return handles

    def remove(self, handles: Sequence[RemovableHandle]) -> None:
        """Remove hooks of attnviz."""
        with self._lock:
            for handle in handles:
                handle.remove()
            self._own.difference_update(handle.id for handle in handles)

    def on_all_modules(self) -> tuple[int, ...]:
        """The numbers of others' hooks on all modules."""
        with self._lock:
            hooks = (*global_hooks._global_forward_pre_hooks, *global_hooks._global_forward_hooks)  # noqa: SLF001
            return tuple(hook for hook in hooks if hook not in self._own)

    def of(self, module: nn.Module) -> tuple[int, ...]:
        """The `id` of every hook of a model."""
        with self._lock:
            registered = RemovableHandle.next_id - self._made
        before, hooks = self._found.get(module, (None, ()))
        if before != registered or hooks:
            hooks = tuple(id(hook) for part in module.modules() for hook in self.on(part))
            self._found[module] = registered, hooks
        return hooks

    def on(self, part: nn.Module) -> list[Any]:
        """Others' hooks on one module."""
        facts = part.__dict__
        found = (each for name in _HOOKS if facts[name] for each in facts[name].items())
        return [hook for number, hook in found if number not in self._own]


HOOKS = Hooks()


def is_foreign(module: nn.Module) -> bool:
    """Whether code from elsewhere runs with a model.

    That is a hook, a part's `forward` that was replaced, or an object in an attribute that can be
    called.
    """
    for part in module.modules():
        facts = part.__dict__
        called = (facts[name] for name in facts if part is not module or name != "forward")
        if HOOKS.on(part) or ("forward" in facts and part is not module):
            return True
        if any(callable(each) and not isinstance(each, _CALLED) for each in called):
            return True
    return False
