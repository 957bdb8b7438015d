"""The engine of a cluster: windows of the plan as a pipeline of Ray Data.

    rows of windows  →  workers, each with a model (`worker.py`)  →  rows of outcomes  →  driver

The driver alone writes the journal, as results come back; pictures' files are written by the
workers, whole, to a folder that all nodes see. So whoever is killed, only time is lost: Ray gives
the window of a worker that died to another one, which writes the same files again, and a driver
that died goes on from its journal.

Ray Data: https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

import contextlib
import os
import pickle
import queue
import secrets
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.batch.connection import connected, library
from attnviz.batch.jobs import Outcome, Settings
from attnviz.batch.ledger import FOLDER, NOTES
from attnviz.batch.local import Windows
from attnviz.batch.run import Batch, OnOutcome
from attnviz.batch.worker import ATTEMPTS, RUN_TOKEN, Fatal, WindowTask, Worker, pack
from attnviz.errors import AttnvizError, DeviceError, UsageError
from attnviz.output import whole_files

_WAIT = 10.0  # seconds for a cluster to answer
_LOOK = 0.5  # seconds between two looks at whether to stop

Row = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """Where a batch runs.

    Attributes:
        address: of a cluster that is there; None takes that of the environment's `RAY_ADDRESS`, or
            starts one of this machine's cores for the time of the run.
        workers: processes with a model each; None takes one for each GPU, or without a GPU one for
            each machine.
    """

    address: str | None = None
    workers: int | None = None

    def work(
        self,
        todo: Batch,
        model: Mapping[str, Any],
        settings: Settings,
        out: Path,
        *,
        batch: int | None,
        stop: threading.Event,
        on_outcome: OnOutcome,
    ) -> None:
        """Do what is left of a batch, as `Batch.work` does on one machine; see `Engine`."""
        todo.work_by(
            lambda note: RayEngine(
                model, settings, out, batch=batch, stop=stop, on_outcome=note, cluster=self
            ),
            on_outcome,
        )


@dataclass(frozen=True)
class Pool:
    """Workers, and what each is given of a node."""

    workers: int
    cpus: int
    gpus: int


class RayEngine:
    """Does the pictures of a plan on a cluster.

    Args:
        model: arguments of `load_model`; the driver loads none.
        settings: what is done with every picture.
        out: folder for all files, which all nodes see.
        batch: pictures of a run; None finds out what fits.
        stop: set by others, it ends the work; windows that were begun are begun anew another time.
        on_outcome: is given every outcome, by one thread at a time.
        cluster: where.

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
        """Do what is to be done of these windows of the plan; returns when all is written.

        Raises:
            DeviceError: the cluster has no GPU, and one is asked for.
            UsageError: more workers than fit; or a question that the model cannot be asked.
            OutputError: nothing more can be written.
            AttnvizError: a node is not fit, the cluster is gone, or a window killed its workers.
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
        """Tell what came back."""
        for row in rows:
            found = pickle.loads(row["row"])
            if isinstance(found, Fatal):
                raise found.error()
            if isinstance(found, Outcome):
                plan.back(row["number"])
                self._on_outcome(found)

    def _rows(self, windows: list[Row], pool: Pool, sign: str) -> Generator[Row, None, None]:
        """What the workers give back, as it comes."""
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # of windows that are lost the rest knows nothing
        task = WindowTask(
            self._model,
            self._settings,
            os.getcwd(),  # noqa: PTH109 — text, as it travels
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
    """Windows on their way, and which came back."""

    def __init__(self, windows: Windows) -> None:
        self.rows: list[Row] = []
        self._first: dict[int, str] = {}  # picture to be done of each window that is not back
        for number, window in enumerate(windows):
            self.rows.append({"number": number, "window": pack(window)})
            self._first[number] = next(part.job.path for part in window if part.job is not None)

    def back(self, number: int) -> None:
        """An outcome of this window came; they come all or none."""
        self._first.pop(number, None)

    def check(self) -> None:
        """Whether all came back.

        Raises:
            AttnvizError: not.
        """
        if self._first:
            path = next(iter(self._first.values()))
            raise AttnvizError(
                f"{path}: its worker was killed {ATTEMPTS} times while it and its neighbours "
                f"were done ({len(self._first)} of {len(self.rows)} windows are left); run again "
                "with --batch-size 1 if memory was short, or find the picture with --engine local"
            )


def pool_of(nodes: Sequence[Mapping[str, float]], workers: int | None, *, device: str) -> Pool:
    """How many workers there are, and of how many cores: as many each as lets all of them fit.

    Args:
        nodes: what each node has, as Ray names it: CPU, GPU and others.
        workers: how many are wanted.
        device: `auto`, `cpu` or `cuda`.

    >>> pool_of([{"CPU": 8, "GPU": 2}, {"CPU": 16, "GPU": 2}], None, device="auto")
    Pool(workers=4, cpus=4, gpus=1)

    Raises:
        DeviceError: a GPU is asked for, and there is none.
        UsageError: so many workers do not fit; a device that a cluster does not hand out.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: Ray chooses among GPUs; give --device cuda, or cpu")
    gpus = int(device == "cuda" or (device == "auto" and any(n.get("GPU", 0) >= 1 for n in nodes)))
    most = _fit(nodes, 1, gpus)
    if gpus and not most:
        raise DeviceError("--device cuda: no node of the cluster has a GPU; give --device cpu")
    if workers is None:
        workers = most if gpus else sum(node.get("CPU", 0) >= 1 for node in nodes)
    if not 0 < workers <= most:
        what = "GPUs" if gpus else "cores"
        raise UsageError(f"--workers {workers}: the cluster has {most} {what}; give at most {most}")
    cpus = 1
    while _fit(nodes, cpus + 1, gpus) >= workers:
        cpus += 1
    return Pool(workers, cpus, gpus)


def _fit(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: int) -> int:
    """How many workers of that size fit on some nodes."""
    by_cpus = (int(node.get("CPU", 0) // cpus) for node in nodes)
    if not gpus:
        return sum(by_cpus)
    return sum(min(n, int(node.get("GPU", 0))) for n, node in zip(by_cpus, nodes, strict=True))


@contextlib.contextmanager
def _signed(out: Path) -> Iterator[str]:
    """A word in the folder for all files, by which workers know that it is the same for them."""
    folder, sign = out / FOLDER / NOTES, secrets.token_hex(8)
    shutil.rmtree(folder, ignore_errors=True)  # of a driver that was killed
    whole_files.make_folder(folder)
    whole_files.write_whole(folder / RUN_TOKEN, sign.encode())
    try:
        yield sign
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until(
    stop: threading.Event, begin: Callable[[], Generator[Row]]
) -> Generator[Row, None, None]:
    """Rows until there are no more, or `stop` is set: also while none comes.

    Raises:
        AttnvizError: the cluster fails.
    """
    found: queue.Queue[Row | BaseException | None] = queue.Queue()
    ended = threading.Event()

    def read() -> None:
        try:
            with contextlib.closing(begin()) as rows:  # closed here, by who waits for rows
                for row in rows:
                    found.put(row)
                    if ended.is_set():
                        return
            found.put(None)
        except BaseException as error:  # raised where the rows are taken
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
    """Rows as they come, until there is None."""
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
