"""Prints results on stdout and everything else, with progress bars, on stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from attnviz.errors import ExitCode, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from PIL import Image
    from rich.console import Console, RenderableType

    from attnviz.batch.run import Count


T = TypeVar("T")
_WIDTH = 100  # width of tables that are not printed on a terminal
_GLANCE = 0.1  # seconds between two checks for a signal that another thread got


def printable(text: str) -> str:
    """Text without characters that end the line or control the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def prepare() -> None:
    """Make streams usable that are closed, or that cannot write every letter."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def say(line: str) -> None:
    """Print one line on stderr: an error or a warning."""
    with contextlib.suppress(BrokenPipeError):
        print(f"attnviz: {printable(line)}", file=sys.stderr, flush=True)


def note(line: str) -> None:
    """Print a line on stderr for people, not for scripts: only on a terminal."""
    if sys.stderr.isatty():
        say(line)


def put(text: str) -> None:
    """Print a result or a path on stdout; invalid bytes of a path do not change."""
    with _reader_may_leave():
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()


def show(*parts: RenderableType) -> None:
    """Print tables and pictures on stdout, in colour only on a terminal and without NO_COLOR."""
    console = _stdout()
    with _reader_may_leave():
        for part in parts:
            console.print(part)


def preview(sheet: Image.Image, *, below: int) -> list[RenderableType]:
    """The sheet for the terminal; empty if stdout is not a terminal that can show it.

    `below` lines of the window stay free for the text that follows, if there is room.
    """
    console = _stdout()
    colours = console.is_terminal and console.color_system not in (None, "standard", "windows")
    if not colours or console.no_color or not console.encoding.lower().startswith("utf"):
        return []
    return [for_terminal(sheet, columns=console.width, lines=max(16, console.height - below))]


def for_terminal(image: Image.Image, *, columns: int, lines: int) -> RenderableType:
    """A picture as half blocks, as large as fits into `columns` × `lines` characters.

    Every character shows two pixels, one above the other. A terminal's character is about twice as
    high as wide, so these pixels are square.
    """
    from PIL.Image import Resampling  # noqa: PLC0415 — terminals only
    from rich_pixels import Pixels  # noqa: PLC0415

    factor = min(1.0, columns / image.width, 2 * lines / image.height)
    width = max(1, round(image.width * factor))
    height = max(2, 2 * round(image.height * factor / 2))
    pixels: RenderableType = Pixels.from_image(image.resize((width, height), Resampling.LANCZOS))
    return pixels


def _stdout() -> Console:
    from rich.console import Console  # noqa: PLC0415 — `--help` does without

    terminal = sys.stdout.isatty()
    # Colours and pictures go to terminals only, even if the environment forces colours.
    return Console(
        width=None if terminal else _WIDTH,
        force_terminal=None if terminal else False,
        highlight=False,
    )


def interruptible(do: Callable[[], T]) -> T:
    """Call a function that may stay in one long call of a library, and answer Ctrl-C at once.

    Another thread calls it, since a library's call does not check for signals. Ctrl-C ends the
    program without waiting for that thread, so the function must leave no half-written files.
    """
    try:
        return _beside(do)
    except KeyboardInterrupt:
        _leave()


def stoppable(do: Callable[[], T], stop: Event) -> T:
    """Call a function that ends early when `stop` is set; Ctrl-C sets it, a second one exits.

    Another thread calls it, since this thread handles the signals.
    """
    import signal  # noqa: PLC0415 — `--help` does without

    def interrupted(*_: object) -> None:
        if stop.is_set():
            _leave()
        stop.set()
        say("finishing what was begun; Ctrl-C again ends at once")

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        return _beside(do)
    finally:
        signal.signal(signal.SIGINT, before)


def _beside(do: Callable[[], T]) -> T:
    """Call a function in a thread of its own, which does not keep the program alive.

    Signals are handled meanwhile. The system may deliver a signal to any thread, but Python handles
    it in this one. If another thread gets it, nothing wakes this one, so it wakes up regularly.
    """
    from concurrent.futures import Future, wait  # noqa: PLC0415 — `--help` does without these
    from threading import Thread  # noqa: PLC0415

    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(do())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=work, daemon=True).start()
    while not wait([done], timeout=_GLANCE).done:
        pass
    return done.result()


def _leave() -> NoReturn:
    """End the program now, without waiting for its threads."""
    from rich.console import Console  # noqa: PLC0415

    Console(stderr=True).show_cursor(True)  # a progress bar had hidden it
    sys.stdout.flush()
    os._exit(ExitCode.INTERRUPTED)


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Stop quietly if the reader of stdout has closed it, as in `attnviz … | head`."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.FAILED) from None
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on stderr, called with (done, total); None if stderr is not a terminal.

    Before its first call, the bar only shows that work goes on.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415 — terminals only

    columns = (
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[failed]} failed  {task.fields[rate]} pictures/s"),
        bars.TimeRemainingColumn(),
    )
    began = time.monotonic()
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
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
            say(
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
