"""Connects to Ray, keeps it quiet, and disconnects."""

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator
from types import ModuleType

from attnviz.errors import AttnvizError
from attnviz.models.failures import optional

_WAIT = 10.0  # seconds for a cluster to answer


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
