"""The engine of one machine: readers, the model and writers work at the same time.

    readers (threads)  →  the model  →  writers
       prepare               ask         finish

At most a few pictures wait between two stages, so memory does not grow with the number of pictures.
Which pictures run together depends on the plan only (`shares.py`), not on speed and not on what
earlier runs finished. So an interrupted run, once resumed, ends with the same numbers.

On a CPU several copies of the model run at once. Each takes a group of its own, uses few threads,
and writes its results before it takes the next group. This keeps all cores busy: the threads of a
single run would wait for each other after every operation, and wait longer whenever a reader or a
writer takes one of their cores.
"""

import copy
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import torch

from attnviz.batch import work
from attnviz.batch.jobs import Answered, Outcome, Prepared, Settings
from attnviz.batch.ledger import PendingPart
from attnviz.geometry.grid import TokenGrid
from attnviz.models import memory
from attnviz.models.model import Model

AHEAD = 128
"""How many pictures are read ahead."""
CPU, OTHERS, UNKNOWN = 8, 32, 8
"""Pictures of a run at most: on a CPU, so that every core gets work; on other devices; of models
that do not say what they take."""
SHARE = 0.25
"""Of the machine's memory, or the device's, that all runs at once may take."""

Windows = Iterable[Sequence[PendingPart]]
"""Windows of the plan (`shares.windows`); equal shapes in a window run together."""
Ready = Prepared | Outcome | None


class LocalEngine:
    """Processes the pictures of a plan.

    Args:
        model: what `load_model` returned.
        settings: what is done with every picture.
        out: folder for all files.
        batch: pictures per run of the model; None finds out how many fit.
        stop: ends the work when another thread sets it; pictures in progress are finished.
        on_outcome: is called with every outcome, by one thread at a time.
        threads: number of reader threads, and of writer threads if the device is not a CPU; None
            takes one per core.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        out: Path,
        *,
        batch: int | None,
        stop: threading.Event,
        on_outcome: Callable[[Outcome], None],
        threads: int | None = None,
    ) -> None:
        self._model, self._settings, self._out = model, settings, out
        self._batch, self._stop, self._on_outcome = batch, stop, on_outcome
        self._threads = threads or os.cpu_count() or 1
        self._slots = threading.Semaphore((batch or OTHERS) + 2 * self._threads)
        self._reporting, self._accepted = threading.Lock(), True
        self._broken: list[Exception] = []

    def run(self, windows: Windows) -> None:
        """Process the pending pictures of these windows; returns when all files are written.

        Raises:
            OutputError: nothing more can be written.
            AttnvizError: what `on_outcome` raised.
        """
        with ExitStack() as open_:
            readers = ThreadPoolExecutor(self._threads, thread_name_prefix="reader")
            open_.callback(readers.shutdown, cancel_futures=True)
            writers = None
            if self._model.device.type != "cpu":
                writers = ThreadPoolExecutor(self._threads, thread_name_prefix="writer")
                open_.callback(writers.shutdown)
            groups = self._groups(self._ready(windows, readers))
            with copies(self._model) as models:
                self._share_out(groups, models, writers)
        if self._broken:
            raise self._broken[0]

    def _share_out(
        self,
        groups: Iterator[list[Prepared]],
        models: Sequence[Model],
        writers: ThreadPoolExecutor | None,
    ) -> None:
        """Give each model one group after the other; one more group is always ready."""
        idle: SimpleQueue[Model] = SimpleQueue()
        for model in models:
            idle.put(model)
        room = threading.Semaphore(len(models) + 1)

        def do(group: list[Prepared]) -> None:
            model = idle.get()
            try:
                self._do(group, model, writers)
            finally:
                idle.put(model)
                room.release()

        each = max(1, torch.get_num_threads() // len(models))
        runners = ThreadPoolExecutor(len(models), "asker", torch.set_num_threads, (each,))
        try:
            for group in groups:
                room.acquire()
                if self._ended():
                    break
                runners.submit(do, group)
        finally:
            runners.shutdown(cancel_futures=self._ended())

    def _do(self, group: list[Prepared], model: Model, writers: ThreadPoolExecutor | None) -> None:
        """Run the model on a group, and write the files of each of its pictures."""
        try:
            for each in work.ask(group, model, self._settings):
                if self._broken:
                    return
                if isinstance(each, Outcome):
                    self._tell(each)
                elif writers is None:
                    self._write(each)
                else:
                    self._slots.acquire()  # released by `_written`, also after an error
                    writers.submit(self._write, each).add_done_callback(self._written)
        except Exception as error:  # raised when all threads have ended
            self._broken.append(error)

    def _written(self, _: "Future[None]") -> None:
        self._slots.release()

    def _ended(self) -> bool:
        return self._stop.is_set() or bool(self._broken)

    def _ready(self, windows: Windows, readers: ThreadPoolExecutor) -> Iterator[Ready]:
        """Pictures in the order of the windows, read ahead; None before each window."""
        waiting: deque[Future[Prepared | Outcome] | Prepared | None] = deque()
        for window in windows:
            waiting.append(None)
            for part in window:
                waiting.append(self._begun(part, readers))
                while len(waiting) > AHEAD:
                    yield _result(waiting.popleft())
                if self._ended():
                    return
        while waiting and not self._ended():
            yield _result(waiting.popleft())

    def _begun(
        self, part: PendingPart, readers: ThreadPoolExecutor
    ) -> Future[Prepared | Outcome] | Prepared:
        if part.job is not None:
            return readers.submit(work.prepare, part.job, self._model, self._settings)
        assert part.entry is not None  # the picture is finished, so it has an entry
        return work.stand_in(part.entry, self._model, self._settings)

    def _groups(self, ready: Iterator[Ready]) -> Iterator[list[Prepared]]:
        """Pictures of one window and shape, which run together; reports failed pictures.

        Groups that are already finished are left out.
        """
        waiting: dict[TokenGrid, list[Prepared]] = {}
        for each in ready:
            full: list[list[Prepared]] = []
            if each is None:
                full, waiting = list(waiting.values()), {}
            elif isinstance(each, Outcome):
                self._tell(each)
            else:
                grid = each.placement.grid
                group = waiting.setdefault(grid, [])
                group.append(each)
                most, spare = self._most(grid)
                if len(group) == most + spare:
                    full, waiting[grid] = [group[:most]], group[most:]
            yield from filter(_is_wanted, full)
        if not self._ended():
            yield from filter(_is_wanted, waiting.values())

    def _most(self, grid: TokenGrid) -> tuple[int, int]:
        """How many pictures of one shape run together, and how many more at a window's end.

        The last ones of a window join others, since a run of few takes as long as one of many.
        Tiles fill the model by themselves.
        """
        if self._settings.tiling is not None:
            return 1, 0
        number = most(self._model, grid, self._batch)
        on_cpu = self._model.device.type == "cpu"
        usual = self._batch is None and number == (CPU if on_cpu else OTHERS)
        return number, number // 2 if usual else 0

    def _write(self, answered: Answered) -> None:
        try:
            if not self._broken:
                self._tell(work.finish(answered, self._settings, self._out))
        except Exception as error:  # raised when all threads have ended
            self._broken.append(error)

    def _tell(self, outcome: Outcome) -> None:
        """Report an outcome, unless an earlier report failed."""
        with self._reporting:
            if self._accepted:
                self._accepted = False
                self._on_outcome(outcome)
                self._accepted = True


def _result(waiting: Future[Prepared | Outcome] | Prepared | None) -> Ready:
    return waiting.result() if isinstance(waiting, Future) else waiting


def _is_wanted(group: Sequence[Prepared]) -> bool:
    """Whether a group has a pending picture."""
    return any(each.job is not None for each in group)


def most(model: Model, grid: TokenGrid, asked_for: int | None) -> int:
    """How many pictures of one shape run together at most.

    It depends on the total memory, not on the free memory nor on the number of cores: another run,
    on another machine with the same memory, must group the same pictures.
    """
    if asked_for is not None:
        return asked_for
    on_cpu = model.device.type == "cpu"
    limit = CPU if on_cpu else OTHERS
    each = grid.tokens * model.token_bytes * (AT_ONCE if on_cpu else 1)
    if each == 0:
        return min(limit, UNKNOWN)
    return max(1, min(limit, int(SHARE * memory.total(str(model.device)) / each)))


AT_ONCE = 8
"""The largest number of simultaneous runs: each needs its own memory."""


@contextmanager
def copies(model: Model) -> Iterator[list[Model]]:
    """The model, and on a CPU as many copies as can run at once, one per core.

    Copies share the parameters, which take most of the memory and are the same in every run.
    Everything else is their own: what a module stores while it runs, other runs do not see. On
    other devices, and for modules that cannot be copied, the list has the model only. Threads may
    change torch's number of threads; it is restored at the end.

    >>> with copies(model) as models:
    ...     len(models) >= 1
    True
    """
    threads = torch.get_num_threads()
    number = min(threads, AT_ONCE) if model.device.type == "cpu" else 1
    try:
        yield [model, *_copied(model, number - 1)]
    finally:
        torch.set_num_threads(threads)


def _copied(model: Model, number: int) -> list[Model]:
    """`number` copies, or none if the module cannot be copied."""
    shared = {id(parameter): parameter for parameter in model.module.parameters()}
    try:
        return [
            replace(model, module=copy.deepcopy(model.module, dict(shared))) for _ in range(number)
        ]
    except Exception:  # a module may hold what cannot be copied: a lock, a file, a handle
        return []
