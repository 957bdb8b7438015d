"""What a process of a cluster does: whole windows of the plan, each by the engine of one machine.

A window, not a group, is what travels: which pictures run together is found within a window, when
their sizes are known. So the groups, and the numbers, are those of a run on one machine.
"""

import os
import pickle
import socket
import threading
import traceback
import zlib
from collections.abc import Sequence
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
from attnviz.output import whole_files

RUN_TOKEN = "sign"
"""What in the folder for notes tells that a worker sees the same as the driver."""
ATTEMPTS = 4
"""How often a window may be begun. Ray begins it anew whenever its worker dies; one that kills them
all, by a picture that crashes a decoder or takes all memory, would hold up the others for ever."""
Batch = dict[str, NDArray[Any]]


def _version() -> str:
    """Of attnviz, as it is installed on this node."""
    try:
        return metadata.version("attnviz")
    except metadata.PackageNotFoundError:  # it lies in a folder of Python's path
        return ""


@dataclass(frozen=True)
class WindowTask:
    """All that a worker must know, as it is sent to it.

    Attributes:
        model: arguments of `load_model`.
        settings: what is done with every picture.
        home: the working folder of the driver, from which all paths are named.
        out: folder for all files.
        sign: what the file `SIGN` holds.
        batch: pictures of a run; None finds out what fits.
        threads: cores that the worker may use.
        version: of the driver's attnviz.
    """

    model: dict[str, Any]
    settings: Settings
    home: str
    out: Path
    sign: str
    batch: int | None
    threads: int
    version: str = field(default_factory=_version)


@dataclass(frozen=True)
class Lost:
    """A window that was begun too often; the others go on."""


@dataclass(frozen=True)
class Fatal:
    """Why nothing more can be done, in a line; an exception might not survive the journey."""

    message: str
    usage: bool = False

    def error(self) -> AttnvizError:
        """What the driver raises."""
        return UsageError(self.message) if self.usage else AttnvizError(self.message)


def pack(window: Sequence[PendingPart]) -> bytes:
    """A window as it travels: paths of one folder are much alike, so it shrinks to a tenth."""
    return zlib.compress(pickle.dumps(list(window)), level=1)


def unpack(data: bytes) -> list[PendingPart]:
    """What `pack` packed."""
    window: list[PendingPart] = pickle.loads(zlib.decompress(data))
    return window


class Worker:
    """Does windows, one after the other; made once in each process.

    Nothing is raised: what would end the run is a row as everything else, so that it comes to the
    driver as it is, without Ray's words around it, and is not tried again.
    """

    def __init__(self, task: WindowTask) -> None:
        self._task = task
        self._model: Model | None = None
        self._fatal: Fatal | None = None
        try:
            self._model = _prepared(task)
        except Exception as error:
            self._fatal = _fatal(error)

    def __call__(self, batch: Batch) -> Batch:
        """Rows of windows to rows of outcomes.

        Args:
            batch: `number` and `window`, a packed one, of the same length.

        Returns:
            `number` of the window and `row`, pickled: an `Outcome` of each picture that was to be
            done, in the order of the plan, or `Lost` or `Fatal` alone.
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
        """One window, unless it was begun too often."""
        if self._model is None:
            return [self._fatal or Fatal("no model")]
        note = self._task.out / FOLDER / NOTES / str(number)
        try:
            if len(whole_files.whole_lines(note)) >= ATTEMPTS:
                return [Lost()]
            whole_files.append(note, socket.gethostname())
            found = self._run_window(self._model, window)
            note.unlink(missing_ok=True)
        except Exception as error:
            return [_fatal(error)]
        return found

    def _run_window(self, model: Model, window: Sequence[PendingPart]) -> list[Outcome]:
        found: dict[str, Outcome] = {}

        def note(outcome: Outcome) -> None:
            found[outcome.entry.path] = _portable(outcome)

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
        return [found[part.job.path] for part in window if part.job is not None]


def _prepared(task: WindowTask) -> Model:
    """The model, in a process that stands where the driver does.

    Raises:
        AttnvizError: this node is not fit for the task.
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
    if _sign(task.out) != task.sign:
        raise OutputError(
            f"node {node} does not see {task.out} as the driver does; choose an --out that all "
            "nodes share"
        )
    import torch  # noqa: PLC0415 — here it is needed; the driver only packs

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
    """The same, its cause as text: exceptions of other libraries may not be picklable.

    By one that is `Unanswerable` the driver sees when to give up.
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
