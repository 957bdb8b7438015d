"""Reads pickles without running them: plain data, and stand-ins for everything else."""

import _compat_pickle
import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

from attnviz.models.pickle_calls import Named, StandIn, call, check_name

_UNUSED = (
    pickle.EXT1, pickle.EXT2, pickle.EXT4,  # look names up in a registry of the running program
    pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,  # take memory before they read
)  # fmt: skip
# Python's own unpickler in Python: its table of opcodes can be replaced, and its memo grows with
# what is stored, while that of the C version grows with any number that a file names.
_Unpickler: Any = vars(pickle)["_Unpickler"]


class InertUnpickler(_Unpickler):  # type: ignore[misc]
    """An unpickler that imports nothing and calls nothing but a few functions of ours.

    A name (GLOBAL) becomes a `Named`, an object of a class a `StandIn`. Nothing of a file is looked
    up in a module, so no code of a class runs: no `__new__`, no `__reduce__`, no `__setstate__`.

    Raises:
        CallRefused: the pickle wants to call something that is no class.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: do
        for code, do in _Unpickler.dispatch.items()
        if code not in {each[0] for each in _UNUSED}
    }

    def __init__(self, file: BinaryIO, storage: Callable[[Any], Any]) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._storage = storage

    def find_class(self, module: Any, name: Any) -> Named:
        """A name, which is not looked up; old pickles have names of Python 2."""
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        return check_name(Named(f"{module}.{name}"))

    def persistent_load(self, identity: Any) -> Any:
        """A storage of numbers, which lies outside of the pickle."""
        return self._storage(identity)

    def load_reduce(self) -> None:
        """REDUCE: a function and its arguments."""
        arguments = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """NEWOBJ: a class and arguments of its `__new__`."""
        arguments = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], arguments, is_class=True)

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same with named arguments, which are left out."""
        del self.stack[-1]
        self.load_newobj()

    def load_inst(self) -> None:
        """INST: a class by its name, and arguments of its call."""
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(call(self.find_class(module, name), tuple(self.pop_mark()), is_class=True))

    def load_obj(self) -> None:
        """OBJ: a class and arguments of its call."""
        kind, *arguments = self.pop_mark()
        self.append(call(kind, tuple(arguments), is_class=True))

    def load_build(self) -> None:
        """BUILD: the state of an object."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], StandIn):
            self.stack[-1].build(state)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(file: BinaryIO, storage: Callable[[Any], Any] = lambda _: None) -> Any:
    """The next pickle of a file, as plain data, tensors and stand-ins.

    Args:
        file: a file that is open for reading bytes.
        storage: returns the storage that a persistent id names.
    """
    return InertUnpickler(file, storage).load()
