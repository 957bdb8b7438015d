"""The engine of several processes on this machine: each has a model and runs whole windows.

    driver: windows of the plan  ⇄  a pipe for each process  ⇄  `LocalEngine` in it

Threads of one process take turns in Python. Where the model is small, or a GPU waits for the host,
most of a run is Python, and processes keep all cores busy. Only the driver writes the journal, when
a picture comes back; if it is killed, the processes end with their pipes.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attnviz.batch.jobs import Outcome, Settings
from attnviz.batch.local import Windows
from attnviz.batch.worker import Fatal, WindowTask, Worker, pack
from attnviz.errors import AttnvizError

_LOOK = 0.5  # seconds between two checks of `stop`


class ProcessEngine:
    """Processes the pictures of a plan in several processes.

    Args:
        model: arguments of `load_model`; the driver itself loads no model.
        settings: what is done with every picture.
        out: folder for all files.
        workers: number of processes.
        batch: pictures per run of the model; None finds out how many fit.
        stop: ends the work when another thread sets it; windows in progress are finished.
        on_outcome: is called with every outcome, by one thread at a time.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        settings: Settings,
        out: Path,
        *,
        workers: int,
        batch: int | None,
        stop: threading.Event,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        threads = max(1, (os.cpu_count() or 1) // workers)
        home = os.getcwd()  # noqa: PTH109 — sent as text
        self._task = WindowTask(dict(model), settings, home, out, None, batch, threads)
        self._workers, self._stop, self._on_outcome = workers, stop, on_outcome

    def run(self, windows: Windows) -> None:
        """Process the pending pictures of these windows; returns when all files are written.

        Raises:
            UsageError: a question that the model cannot answer.
            OutputError: nothing more can be written.
            AttnvizError: a process was killed, or what `on_outcome` raised.
        """
        packed = map(pack, windows)
        processes: dict[Connection, BaseProcess] = {}
        try:
            # No process begins without a window of its own.
            for _, first in zip(range(self._workers), packed, strict=False):
                connection, process = _started(self._task)
                processes[connection] = process
                _send(connection, process, first)
            working = set(processes)
            while working:
                for ready in wait(list(working), _LOOK):
                    assert isinstance(ready, Connection)
                    if self._receive(ready, processes[ready]):
                        continue
                    following = None if self._stop.is_set() else next(packed, None)
                    _send(ready, processes[ready], following or b"")
                    working -= set() if following else {ready}
        finally:
            for connection, process in processes.items():
                connection.close()
                process.join(None if self._stop.is_set() else 5)
                process.kill()

    def _receive(self, connection: Connection, process: BaseProcess) -> bool:
        """Report what a process sends; returns False when its window is done."""
        try:
            found = connection.recv()
        except (EOFError, OSError) as error:
            raise _ended(process) from error
        if isinstance(found, Fatal):
            raise found.error()
        if isinstance(found, Outcome):
            self._on_outcome(found)
        return found is not None


def _send(connection: Connection, process: BaseProcess, packed: bytes) -> None:
    """Send a window to a process.

    Raises:
        AttnvizError: it has ended.
    """
    try:
        connection.send_bytes(packed)
    except OSError as error:
        raise _ended(process) from error


def _ended(process: BaseProcess) -> AttnvizError:
    process.join()
    return AttnvizError(
        f"--workers: a process ended (code {process.exitcode}); run again, with fewer if memory "
        "was short: what is done is not done again"
    )


def _started(task: WindowTask) -> tuple[Connection, BaseProcess]:
    """A process that serves windows, and the driver's end of its pipe."""
    context = get_context("spawn")  # a fork of a process with threads may hang
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(task, theirs), daemon=True)
    with _without_interrupts():
        process.start()
    theirs.close()
    return ours, process


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that starts here leaves Ctrl-C to the driver from its first moment on."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would unblock the signal when a process starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(task: WindowTask, connection: Connection) -> None:
    """Do windows until an empty one comes, or the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which ends the pipe
    worker = Worker(task, report=connection.send)
    try:
        while packed := connection.recv_bytes():
            worker.serve(packed)
            connection.send(None)
    except (EOFError, OSError):  # the driver is gone
        os._exit(1)
