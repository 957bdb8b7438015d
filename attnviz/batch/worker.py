"""The worker process of a cluster, or beside the driver: it runs windows with the local engine.

The driver sends windows, not groups: the pictures of a window are grouped when their sizes are
known. So the groups, and the numbers, are those of a run on one machine.
"""

import os
import pickle
import socket
import threading
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.batch.jobs import Outcome, Settings, Unanswerable
from attnviz.batch.ledger import FOLDER, NOTES, PendingPart
from attnviz.batch.local import LocalEngine
from attnviz.errors import AttnvizError, ExitCode, ModelError, OutputError, UsageError
from attnviz.explanation.request import check_model
from attnviz.models import load_model
from attnviz.models.model import Model
from attnviz.output import line_files

RUN_TOKEN = "sign"
"""A file in the folder for notes; it shows that a worker sees the same folder as the driver."""
ATTEMPTS = 4
"""How often a window may start. Ray restarts it whenever its worker dies; a window that kills every
worker (a picture crashes a decoder or takes all memory) would otherwise block the run forever."""
Batch = dict[str, NDArray[Any]]


def _version() -> str:
    """The version of attnviz on this node; empty if it is not installed as a package."""
    try:
        return metadata.version("attnviz")
    except metadata.PackageNotFoundError:  # attnviz is only on Python's path
        return ""


@dataclass(frozen=True)
class WindowTask:
    """Everything that the driver sends to a worker at its start.

    Attributes:
        model: arguments of `load_model`.
        settings: what is done with every picture.
        home: the driver's working folder; all paths are relative to it.
        out: folder for all files.
        sign: the content of the file `RUN_TOKEN`; None for a process beside the driver.
        batch: pictures per run of the model; None finds out how many fit.
        threads: number of cores that the worker may use.
        version: the version of the driver's attnviz.
    """

    model: dict[str, Any]
    settings: Settings
    home: str
    out: Path
    sign: str | None
    batch: int | None
    threads: int
    version: str = field(default_factory=_version)


@dataclass(frozen=True)
class Lost:
    """A window that started too often; the others continue."""


@dataclass(frozen=True)
class Fatal:
    """The reason why the run must end, in one line; an exception might not be picklable."""

    message: str
    usage: bool = False

    def error(self) -> AttnvizError:
        """The error that the driver raises."""
        return UsageError(self.message) if self.usage else AttnvizError(self.message)


def pack(window: Sequence[PendingPart]) -> bytes:
    """A window as compressed bytes, about a tenth: the paths of one folder are similar."""
    return zlib.compress(pickle.dumps(list(window)), level=1)


def unpack(data: bytes) -> list[PendingPart]:
    """The window that `pack` compressed."""
    window: list[PendingPart] = pickle.loads(zlib.decompress(data))
    return window


class Worker:
    """Processes windows one after the other; each process makes one worker.

    A worker raises no errors. An error that ends the run is returned as a row, so that the driver
    gets it without Ray's additions, and Ray does not repeat the window.
    """

    def __init__(
        self, task: WindowTask, report: Callable[[Outcome | Fatal], None] | None = None
    ) -> None:
        """Load the model; `report` takes what `serve` finds, one at a time."""
        self._task, self._report = task, report
        self._model: Model | None = None
        self._fatal: Fatal | None = None
        try:
            self._model = _prepared(task)
        except Exception as error:
            self._fatal = _fatal(error)

    def __call__(self, batch: Batch) -> Batch:
        """Turns rows of windows into rows of outcomes.

        Args:
            batch: `number` and `window` (packed), of the same length.

        Returns:
            `number` of the window and `row`, pickled: an `Outcome` for each pending picture, in the
            order of the plan, or a single `Lost` or `Fatal`.
        """
        numbers, rows = list[int](), list[bytes]()
        for number, window in zip(batch["number"], batch["window"], strict=True):
            for found in self._tried(int(number), unpack(window)):
                numbers.append(int(number))
                rows.append(pickle.dumps(found))
        packed = np.empty(len(rows), dtype=object)
        packed[:] = rows
        return {"number": np.array(numbers, dtype=np.int64), "row": packed}

    def _tried(
        self, number: int, window: Sequence[PendingPart]
    ) -> Sequence[Outcome | Lost | Fatal]:
        """Process one window, unless it started too often."""
        if self._model is None:
            return [self._fatal or Fatal("no model")]
        note = self._task.out / FOLDER / NOTES / str(number)
        try:
            if len(line_files.whole_lines(note)) >= ATTEMPTS:
                return [Lost()]
            line_files.append(note, socket.gethostname())
            found = self._run_window(self._model, window)
            note.unlink(missing_ok=True)
        except Exception as error:
            return [_fatal(error)]
        return found

    def serve(self, packed: bytes) -> None:
        """Process one window, and report each picture as soon as its files are written."""
        assert self._report is not None
        try:
            if self._model is None:
                self._report(self._fatal or Fatal("no model"))
            else:
                report = self._report
                self._run(self._model, unpack(packed), lambda each: report(_portable(each)))
        except BrokenPipeError:
            raise
        except Exception as error:
            self._report(_fatal(error))

    def _run_window(self, model: Model, window: Sequence[PendingPart]) -> list[Outcome]:
        found: dict[str, Outcome] = {}

        def note(outcome: Outcome) -> None:
            found[outcome.entry.key] = _portable(outcome)

        self._run(model, window, note)
        return [found[part.job.key] for part in window if part.job is not None]

    def _run(
        self, model: Model, window: Sequence[PendingPart], note: Callable[[Outcome], None]
    ) -> None:
        task = self._task
        LocalEngine(
            model,
            task.settings,
            task.out,
            batch=task.batch,
            stop=threading.Event(),
            on_outcome=note,
            threads=task.threads,
        ).run([window])


def _prepared(task: WindowTask) -> Model:
    """The model, in a process with the driver's working folder.

    Raises:
        AttnvizError: this node is unsuitable for the task.
    """
    node = socket.gethostname()
    if _version() != task.version:
        raise ModelError(
            f"node {node} has attnviz {_version()}, and the driver {task.version}; install the "
            "same on all nodes"
        )
    try:
        os.chdir(task.home)
    except OSError as error:
        raise OutputError(
            f"node {node} does not see the working folder {task.home} ({error.strerror}); start in "
            "one that all nodes share"
        ) from error
    if task.sign is not None and _sign(task.out) != task.sign:
        raise OutputError(
            f"node {node} does not see {task.out} as the driver does; choose an --out that all "
            "nodes share"
        )
    import torch  # noqa: PLC0415 — the driver does not need torch

    torch.set_num_threads(task.threads)
    model = load_model(**task.model)
    check_model(model, task.settings.questions)
    return model


def _sign(out: Path) -> str:
    try:
        return (out / FOLDER / NOTES / RUN_TOKEN).read_text(encoding="utf-8")
    except OSError:
        return ""


def _portable(outcome: Outcome) -> Outcome:
    """The outcome with its cause as text, since foreign exceptions may not be picklable.

    An `Unanswerable` stays one, since the driver counts these to decide when to give up.
    """
    if outcome.cause is None or isinstance(outcome.cause, Unanswerable):
        return outcome
    message = "".join(traceback.format_exception(outcome.cause))
    return replace(outcome, cause=RuntimeError(message))


def _fatal(error: Exception) -> Fatal:
    if isinstance(error, AttnvizError):
        return Fatal(str(error), usage=error.exit_code == ExitCode.USAGE)
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return Fatal(
        f"node {socket.gethostname()}: {message}; try `--engine local` with a few pictures"
    )
