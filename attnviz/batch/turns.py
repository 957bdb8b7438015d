"""Who has the cores: the model, or those that read and write for it.

A model on the CPU computes in as many threads as there are cores, which wait for each other after
every operation. Were one of them held up by a reader, all would wait: so they take turns. What
there is to read and write is done between two runs, on all cores, and each has them to itself.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
PATIENCE = 1.0
"""Seconds that the model waits for a task that takes long; then both are at it."""


class Turns:
    """Tasks that run when the model does not; on other devices than the CPU whenever they like.

    >>> turns = Turns("cpu")
    >>> pool.submit(turns.task(read), path)
    >>> with turns.alone():
    ...     model(pixels)
    """

    def __init__(self, device: str) -> None:
        self._taken = device == "cpu" and torch.get_num_threads() >= (os.cpu_count() or 1)
        self._waiting, self._changed = 0, threading.Condition()
        self._free = threading.Event()
        self._free.set()

    def task(self, do: Callable[P, T]) -> Callable[P, T]:
        """Something that is about to be given to a pool of threads, to be done between runs."""
        with self._changed:
            self._waiting += 1

        def done(*args: P.args, **kwargs: P.kwargs) -> T:
            self._free.wait()
            try:
                return do(*args, **kwargs)
            finally:
                with self._changed:
                    self._waiting -= 1
                    self._changed.notify_all()

        return done

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The model runs, as soon as all tasks that were given are done."""
        if not self._taken:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0, timeout=PATIENCE)
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()
