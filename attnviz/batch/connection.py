"""Shares a Ray cluster out among workers, connects to it, keeps it quiet, and disconnects."""

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from attnviz.errors import AttnvizError, DeviceError, UsageError
from attnviz.models.failures import optional

_WAIT = 10.0  # seconds for a cluster to answer


@dataclass(frozen=True)
class Cluster:
    """The cluster that a batch runs on.

    Attributes:
        address: the address of a running cluster; None takes the one in the environment variable
            `RAY_ADDRESS`, or starts a cluster on this machine's cores for the time of the run.
        workers: the number of processes with a model each; None takes one per GPU, or one per
            machine if there is no GPU.
    """

    address: str | None = None
    workers: int | None = None


def library() -> ModuleType:
    """The library Ray, with Ray Data.

    Raises:
        MissingExtraError: Ray is not installed.
        ModelError: Ray cannot be imported.
    """
    optional("ray.data", "ray", "--engine ray")
    return optional("ray", "ray", "--engine ray")


@contextlib.contextmanager
def connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """Connect to a cluster for the time of the run; an existing connection is used and kept."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _hush()
    _start_no_other()
    try:
        _knock(address)
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,  # stdout is for results only
            logging_level=logging.CRITICAL,
        )
    except Exception as error:  # Ray raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise AttnvizError(
            f"--ray-address {address}: cannot connect to a cluster ({reason}); `ray start --head` "
            "starts one, and `ray status` shows whether it runs"
        ) from error
    try:
        yield
    finally:
        with _unsaid():
            ray.shutdown()


def _start_no_other() -> None:
    """Keep Ray from starting a cluster by itself after a run's cluster is gone.

    Ray's own threads may still call Ray while a run ends, and after it. Ray would then start a
    cluster, and the next run would connect to it and wait forever.
    """
    hook = sys.modules.get("ray._private.auto_init_hook")
    if hasattr(hook, "enable_auto_connect"):
        setattr(hook, "enable_auto_connect", False)  # noqa: B010 — not typed


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Hide the exceptions of Ray's threads when their cluster shuts down."""
    before = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = before


def _knock(address: str) -> None:
    """Check that something answers at the address; Ray itself would try for ten minutes.

    Raises:
        OSError: nothing answers.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT).close()


def _hush() -> None:
    """Send the log of Ray Data to its files only: attnviz reports errors in one line."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    # Ray prints messages to the driver (a worker died) to stdout, but stdout is for results.
    printer = sys.modules.get("ray._private.worker")
    if hasattr(printer, "print_to_stdstream"):
        setattr(printer, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010 — not typed


@dataclass(frozen=True)
class Pool:
    """The number of workers, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


def pool_of(nodes: Sequence[Mapping[str, float]], workers: int | None, *, device: str) -> Pool:
    """How many workers there are, and the cores of each: the most with which all workers fit.

    Args:
        nodes: the resources of each node, by Ray's names: CPU, GPU and others.
        workers: how many workers are requested; None chooses.
        device: `auto`, `cpu` or `cuda`.

    >>> pool_of([{"CPU": 8, "GPU": 2}, {"CPU": 16, "GPU": 2}], None, device="auto")
    Pool(workers=4, cpus=4, gpus=1)

    Raises:
        DeviceError: a GPU is requested, and there is none.
        UsageError: not all workers fit, or the device is one that Ray does not assign.
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
    """How many workers of that size fit on the nodes."""
    by_cpus = (int(node.get("CPU", 0) // cpus) for node in nodes)
    if not gpus:
        return sum(by_cpus)
    return sum(min(n, int(node.get("GPU", 0))) for n, node in zip(by_cpus, nodes, strict=True))
