"""Runs work in threads, each with its own buffers, and returns results in order."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Job = TypeVar("Job")
Result = TypeVar("Result")


class Scratch(threading.local):
    """Buffers of the current thread, allocated once and used by every block."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 buffer of this shape, with any content."""
        view = self._views.get((name, shape))
        if view is None:
            size, buffer = math.prod(shape), self._buffers.get(name)
            if buffer is None or buffer.numel() < size:
                buffer = self._buffers[name] = torch.empty(size)
                self._views = {key: v for key, v in self._views.items() if key[0] != name}
            view = self._views[name, shape] = buffer[:size].view(shape)
        return view


def in_order(
    work: Callable[[Job], Result], jobs: Sequence[Job], *, threads: int
) -> Iterator[Result]:
    """The result of `work` for each job, in order; few results wait, so memory stays bounded.

    With a single thread, the caller's thread does the work. While this runs, torch's number of
    threads is 1 in the whole process; afterwards it is restored.
    """
    before = torch.get_num_threads()
    pool = None
    waiting: deque[Future[Result]] = deque()
    try:
        # In this thread too: waiting OpenMP threads spin and take time from working threads.
        torch.set_num_threads(1)
        if threads < 2:
            yield from map(work, jobs)
            return
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
