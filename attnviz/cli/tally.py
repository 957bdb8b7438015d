"""Shows the progress of a batch: a bar on a terminal, otherwise a line at intervals."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from attnviz.cli import console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from attnviz.batch.run import Count

EVERY = 30.0
"""Seconds between two lines if stderr is not a terminal."""


@contextlib.contextmanager
def tally(start: Count, *, quiet: bool = False) -> Iterator[Callable[[Count], None]]:
    """A function that shows the current count on stderr; the progress begins at `start`."""
    if quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bar(start) as tell:
            yield tell
    else:
        yield _lines(start)


@contextlib.contextmanager
def _bar(start: Count) -> Iterator[Callable[[Count], None]]:
    from rich.console import Console  # noqa: PLC0415 — terminals only
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed  {task.fields[rate]} pictures/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(
            "", total=start.all, completed=start.all - start.left, failed=start.failed, rate="–"
        )

        def tell(now: Count) -> None:
            rate = _rate(start, now, began)
            bar.update(task, completed=now.all - now.left, failed=now.failed, rate=f"{rate:.3g}")

        yield tell


def _lines(start: Count) -> Callable[[Count], None]:
    began = last = time.monotonic()

    def tell(now: Count) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            rate = _rate(start, now, began)
            console.say(
                f"{now.done} of {now.all} done, {now.failed} failed, {rate:.3g} pictures/s, "
                f"{_span(now.left / rate)} left"
            )

    return tell


def _rate(start: Count, now: Count, began: float) -> float:
    """Pictures a second."""
    return (start.left - now.left) / max(time.monotonic() - began, 1e-9)


def _span(seconds: float) -> str:
    """A duration in readable units.

    >>> _span(40), _span(600), _span(10000)
    ('40 s', '10 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
