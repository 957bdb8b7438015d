"""The engine of one machine: readers, the model, and writers, each ahead of the next.

    readers (threads)  →  the model (one thread)  →  writers (threads)
       prepare                    ask                     finish

A few pictures wait between them, never more, so that memory does not grow with their number. The
model's thread alone touches tensors; on a CPU the others work when it does not. Which pictures run
together depends on the plan alone, not on who is faster, nor on what was done before: so a run that
was broken off ends with the same numbers.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from attnviz import memory
from attnviz.batch import work
from attnviz.batch.jobs import Answered, Outcome, Prepared, Settings
from attnviz.batch.resume import Part
from attnviz.batch.turns import Turns
from attnviz.geometry import TokenGrid
from attnviz.models.model import Model

WINDOW = 128
"""Pictures, one after the other in the plan, among which those of one shape are put together."""
MOST = {"cpu": 16}
OTHERS, UNKNOWN = 32, 8
"""Pictures of a run at most, by the kind of device; of models that do not say what they take."""
SHARE = 0.25
"""Of the machine's memory, or the device's, that a run may take."""

Windows = Iterable[Sequence[Part]]
Ready = Prepared | Outcome | None


class Engine:
    """Does the pictures of a plan.

    Args:
        model: what `load_model` gave.
        settings: what is done with every picture.
        out: folder for all files.
        batch: pictures of a run; None finds out what fits.
        stop: set by others, it ends the work when what was begun is finished.
        told: is given every outcome, by one thread at a time.
        threads: that read, and that write; None takes as many as there are cores.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        out: Path,
        *,
        batch: int | None,
        stop: threading.Event,
        told: Callable[[Outcome], None],
        threads: int | None = None,
    ) -> None:
        self._model, self._settings, self._out = model, settings, out
        self._batch, self._stop, self._told = batch, stop, told
        self._threads = threads or os.cpu_count() or 1
        self._slots = threading.Semaphore((batch or OTHERS) + 2 * self._threads)
        self._turns = Turns(model.device.type)
        self._telling = threading.Lock()
        self._broken: list[Exception] = []

    def run(self, windows: Windows) -> None:
        """Do what is to be done of these windows of the plan; returns when all is written.

        Raises:
            OutputError: nothing more can be written.
            AttnvizError: what `told` raised.
        """
        readers = ThreadPoolExecutor(self._threads, thread_name_prefix="reader")
        writers = ThreadPoolExecutor(self._threads, thread_name_prefix="writer")
        try:
            for group in self._groups(self._ready(windows, readers)):
                for each in work.ask(group, self._model, self._settings, self._turns.alone):
                    self._pass_on(each, writers)
                if self._ended():
                    break
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown()
        if self._broken:
            raise self._broken[0]

    def _ended(self) -> bool:
        return self._stop.is_set() or bool(self._broken)

    def _ready(self, windows: Windows, readers: ThreadPoolExecutor) -> Iterator[Ready]:
        """Pictures in the order of the plan, read ahead; None behind each window."""
        waiting: deque[Future[Prepared | Outcome] | Prepared | None] = deque()
        for window in windows:
            for part in window:
                waiting.append(self._begun(part, readers))
                while len(waiting) > WINDOW:  # groups of a window are full when it ends
                    yield _result(waiting.popleft())
                if self._ended():
                    return
            waiting.append(None)
        while waiting and not self._ended():
            yield _result(waiting.popleft())

    def _begun(
        self, part: Part, readers: ThreadPoolExecutor
    ) -> Future[Prepared | Outcome] | Prepared:
        if part.job is not None:
            prepare = self._turns.task(work.prepare)
            return readers.submit(prepare, part.job, self._model, self._settings)
        assert part.entry is not None  # it is done, so there is one
        return work.stand_in(part.entry, self._model, self._settings)

    def _groups(self, ready: Iterator[Ready]) -> Iterator[list[Prepared]]:
        """Pictures that run together: of one shape, in the order of the plan; what failed is told.

        Groups that are done already are left out.
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
                if len(group) == most(self._model, grid, self._batch):
                    full = [waiting.pop(grid)]
            yield from (group for group in full if any(one.job is not None for one in group))

    def _pass_on(self, each: Answered | Outcome, writers: ThreadPoolExecutor) -> None:
        """Have a picture written, as soon as not too many wait for that."""
        if isinstance(each, Outcome):
            self._tell(each)
            return
        self._slots.acquire()  # given back also by those that fail
        writers.submit(self._turns.task(self._write), each)

    def _write(self, answered: Answered) -> None:
        try:
            if not self._broken:
                self._tell(work.finish(answered, self._settings, self._out))
        except Exception as error:  # told when all threads have ended
            self._broken.append(error)
        finally:
            self._slots.release()

    def _tell(self, outcome: Outcome) -> None:
        with self._telling:
            self._told(outcome)


def _result(waiting: Future[Prepared | Outcome] | Prepared | None) -> Ready:
    return waiting.result() if isinstance(waiting, Future) else waiting


def most(model: Model, grid: TokenGrid, wanted: int | None) -> int:
    """How many pictures of a shape run together.

    By all memory that there is, not by what happens to be free: another run is to put the same
    pictures together.
    """
    if wanted is not None:
        return wanted
    each = grid.tokens * model.token_bytes
    if each == 0:
        return UNKNOWN
    fits = int(SHARE * memory.total(str(model.device)) / each)
    return max(1, min(MOST.get(model.device.type, OTHERS), fits))
