"""Work in threads, each with buffers of its own, and results in order."""

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
    """Buffers of the thread that asks, made once and used by every block."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 buffer of that shape, with whatever is in it."""
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
    """What `work` makes of each job, in their order; few results wait, so memory stays bounded.

    A single thread is the caller's own. torch's number of threads is 1 meanwhile, in the whole
    process, and then what it was.
    """
    before = torch.get_num_threads()
    pool = None
    waiting: deque[Future[Result]] = deque()
    try:
        # Here too: OpenMP threads that wait for work spin, and take the time of those at work.
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
