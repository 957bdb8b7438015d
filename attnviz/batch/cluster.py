"""The engine of a cluster: runs the windows of the plan as a pipeline of Ray Data.

    rows of windows  →  workers, each with a model (`worker.py`)  →  rows of outcomes  →  driver

Only the driver writes the journal, as results come back. The workers write the files of the
pictures, each file whole, to a folder that all nodes see. If a process is killed, only time is
lost: Ray gives the window of a dead worker to another one, which writes the same files again, and
a new driver continues from the journal.

Ray Data: https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

import contextlib
import os
import pickle
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnviz.batch.connection import Cluster, Pool, connected, library, pool_of
from attnviz.batch.jobs import Outcome, Settings
from attnviz.batch.ledger import FOLDER, NOTES
from attnviz.batch.local import Windows
from attnviz.batch.worker import ATTEMPTS, RUN_TOKEN, Fatal, WindowTask, Worker, pack
from attnviz.errors import AttnvizError
from attnviz.output import whole_files

_WAIT = 10.0  # seconds for a cluster to answer
_LOOK = 0.5  # seconds between two checks of `stop`

Row = dict[str, Any]


class RayEngine:
    """Processes the pictures of a plan on a cluster.

    Args:
        model: arguments of `load_model`; the driver itself loads no model.
        settings: what is done with every picture.
        out: folder for all files; all nodes see it.
        batch: pictures per run of the model; None finds out how many fit.
        stop: ends the work when another thread sets it; the next run repeats unfinished windows.
        on_outcome: is called with every outcome, by one thread at a time.
        cluster: the cluster to run on.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        settings: Settings,
        out: Path,
        *,
        batch: int | None,
        stop: threading.Event,
        on_outcome: Callable[[Outcome], None],
        cluster: Cluster,
    ) -> None:
        self._ray = library()
        self._model, self._settings, self._out = dict(model), settings, out
        self._batch, self._stop, self._on_outcome, self._cluster = batch, stop, on_outcome, cluster

    def run(self, windows: Windows) -> None:
        """Process the pending pictures of these windows; returns when all files are written.

        Raises:
            DeviceError: a GPU is requested, and the cluster has none.
            UsageError: more workers than fit, or a question that the model cannot answer.
            OutputError: nothing more can be written.
            AttnvizError: a node is unsuitable, the cluster is gone, or a window killed its workers.
        """
        plan = _Plan(windows)
        if not plan.rows:
            return
        with connected(self._ray, self._cluster.address), _signed(self._out) as sign:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            pool = pool_of(nodes, self._cluster.workers, device=self._model.get("device", "auto"))
            rows = _until(self._stop, lambda: self._rows(plan.rows, pool, sign))
            with contextlib.closing(rows):
                self._take(rows, plan)
        if not self._stop.is_set():
            plan.check()

    def _take(self, rows: Iterator[Row], plan: "_Plan") -> None:
        """Report the outcomes that come back."""
        for row in rows:
            found = pickle.loads(row["row"])
            if isinstance(found, Fatal):
                raise found.error()
            if isinstance(found, Outcome):
                plan.back(row["number"])
                self._on_outcome(found)

    def _rows(self, windows: list[Row], pool: Pool, sign: str) -> Generator[Row, None, None]:
        """The workers' results, as they arrive."""
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a lost window does not stop the others
        task = WindowTask(
            self._model,
            self._settings,
            os.getcwd(),  # noqa: PTH109 — sent as text
            self._out,
            sign,
            self._batch,
            pool.cpus,
        )
        dataset = data.from_items(windows, override_num_blocks=len(windows)).map_batches(
            Worker,
            fn_constructor_args=(task,),
            compute=data.ActorPoolStrategy(size=pool.workers),
            batch_size=1,
            batch_format="numpy",
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
        yield from dataset.iter_rows()


class _Plan:
    """The windows that were sent, and which of them came back."""

    def __init__(self, windows: Windows) -> None:
        self.rows: list[Row] = []
        self._first: dict[int, str] = {}  # first pending picture of each open window
        for number, window in enumerate(windows):
            self.rows.append({"number": number, "window": pack(window)})
            self._first[number] = next(part.job.path for part in window if part.job is not None)

    def back(self, number: int) -> None:
        """Note that this window came back; its outcomes come all together or not at all."""
        self._first.pop(number, None)

    def check(self) -> None:
        """Check that all windows came back.

        Raises:
            AttnvizError: some did not.
        """
        if self._first:
            path = next(iter(self._first.values()))
            raise AttnvizError(
                f"{path}: its worker was killed {ATTEMPTS} times while it and its neighbours "
                f"were done ({len(self._first)} of {len(self.rows)} windows are left); run again "
                "with --batch-size 1 if memory was short, or find the picture with --engine local"
            )


@contextlib.contextmanager
def _signed(out: Path) -> Iterator[str]:
    """A random word in a file of the folder; workers read it to check that they see that folder."""
    folder, sign = out / FOLDER / NOTES, secrets.token_hex(8)
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed driver
    whole_files.make_folder(folder)
    whole_files.write_whole(folder / RUN_TOKEN, sign.encode())
    try:
        yield sign
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until(
    stop: threading.Event, begin: Callable[[], Generator[Row]]
) -> Generator[Row, None, None]:
    """Rows until there are no more, or until `stop` is set, even while waiting for a row.

    Raises:
        AttnvizError: the cluster fails.
    """
    found: queue.Queue[Row | BaseException | None] = queue.Queue()
    ended = threading.Event()

    def read() -> None:
        try:
            with contextlib.closing(begin()) as rows:  # closed by the thread that waits for rows
                for row in rows:
                    found.put(row)
                    if ended.is_set():
                        return
            found.put(None)
        except BaseException as error:  # the thread that takes the rows raises it
            found.put(error)

    reader = threading.Thread(target=read, name="ray rows", daemon=True)
    reader.start()
    try:
        yield from _taken(found, stop)
    finally:
        ended.set()
        reader.join(timeout=_WAIT)


def _taken(
    found: "queue.Queue[Row | BaseException | None]", stop: threading.Event
) -> Iterator[Row]:
    """Rows as they arrive, until a None arrives."""
    while not stop.is_set():
        try:
            row = found.get(timeout=_LOOK)
        except queue.Empty:
            continue
        if row is None:
            return
        if isinstance(row, BaseException):
            reason = " ".join(f"{type(row).__name__}: {row}".split())[:300]
            raise AttnvizError(
                f"--engine ray: the cluster failed ({reason}); see `ray status`, and run again: "
                "what is done is not done again"
            ) from row
        yield row
