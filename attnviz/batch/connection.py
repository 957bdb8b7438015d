"""Ray, as it is found, reached, kept quiet and left."""

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
    """Ray, with Ray Data.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it does not import.
    """
    optional("ray.data", "ray", "--engine ray")
    return optional("ray", "ray", "--engine ray")


@contextlib.contextmanager
def connected(ray: ModuleType, address: str | None) -> Iterator[None]:
    """A cluster for the time of the run; what this process is connected to already stays."""
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
            log_to_driver=False,  # results alone go to stdout
            logging_level=logging.CRITICAL,
        )
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:200]
        raise AttnvizError(
            f"--ray-address {address}: no cluster to be had ({reason}); `ray start --head` starts "
            "one, and `ray status` says whether it is there"
        ) from error
    try:
        yield
    finally:
        with _unsaid():
            ray.shutdown()


def _start_no_other() -> None:
    """Keep Ray from starting a cluster by itself when something is asked of one that is gone.

    Its own threads may still ask while, and after, a run is given up; the next run would then meet
    a cluster that nobody has started, and wait for ever.
    """
    hook = sys.modules.get("ray._private.auto_init_hook")
    if hasattr(hook, "enable_auto_connect"):
        setattr(hook, "enable_auto_connect", False)  # noqa: B010 — not typed


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """What threads of Ray raise when their cluster goes is no news."""
    before = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        yield
    finally:
        threading.excepthook = before


def _knock(address: str) -> None:
    """Whether somebody answers there; Ray itself tries for ten minutes.

    Raises:
        OSError: not.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT).close()


def _hush() -> None:
    """Leave what Ray Data logs to its files: attnviz reports errors in one line."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    # Ray prints what it tells a driver, such as that a worker died, to stdout, where results go.
    printer = sys.modules.get("ray._private.worker")
    if hasattr(printer, "print_to_stdstream"):
        setattr(printer, "print_to_stdstream", lambda *_, **__: None)  # noqa: B010 — not typed
