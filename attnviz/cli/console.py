"""Where things are said: results on stdout, everything else on stderr."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from attnviz.errors import ExitCode, OutputError

if TYPE_CHECKING:
    from threading import Event

    from PIL import Image
    from rich.console import Console, RenderableType

T = TypeVar("T")
_WIDTH = 100  # of tables that do not go to a terminal
_GLANCE = 0.1  # seconds after which a signal that another thread was given is answered


def printable(text: str) -> str:
    """Text without what could end the line or steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def prepare() -> None:
    """Make streams that are closed, or cannot write every letter, usable."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def say(line: str) -> None:
    """One line about what went wrong, or what should be known, on stderr."""
    with contextlib.suppress(BrokenPipeError):
        print(f"attnviz: {printable(line)}", file=sys.stderr, flush=True)


def note(line: str) -> None:
    """A line that a person may care about and a script does not: on a terminal only."""
    if sys.stderr.isatty():
        say(line)


def put(text: str) -> None:
    """A result, or a path, on stdout; a path's odd bytes as they are."""
    with _reader_may_leave():
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()


def show(*parts: "RenderableType") -> None:
    """Tables and pictures on stdout: coloured on a terminal only, and not under NO_COLOR."""
    console = _stdout()
    with _reader_may_leave():
        for part in parts:
            console.print(part)


def preview(sheet: "Image.Image", *, below: int) -> "list[RenderableType]":
    """The sheet as it is drawn in the terminal; nothing where stdout is none that can.

    `below` lines are left for what follows, if the window has them to spare.
    """
    console = _stdout()
    if not _can_draw(console):
        return []
    from attnviz.drawing.terminal import for_terminal  # noqa: PLC0415 — terminals only

    return [for_terminal(sheet, columns=console.width, lines=max(16, console.height - below))]


def _stdout() -> "Console":
    from rich.console import Console  # noqa: PLC0415 — `--help` does without

    terminal = sys.stdout.isatty()
    # Whatever the environment forces: colours and pictures go to terminals only.
    return Console(
        width=None if terminal else _WIDTH,
        force_terminal=None if terminal else False,
        highlight=False,
    )


def _can_draw(console: "Console") -> bool:
    """Whether stdout is a terminal that shows colours and half blocks."""
    colours = console.is_terminal and console.color_system not in (None, "standard", "windows")
    return colours and not console.no_color and console.encoding.lower().startswith("utf")


def interruptible(do: Callable[[], T]) -> T:
    """Do something that may sit in one long call of a library, and answer Ctrl-C at once.

    It is done by a thread beside this one, since a library's call does not look at signals. Ctrl-C
    ends the program without waiting for it: nothing may be half written meanwhile.
    """
    try:
        return _beside(do)
    except KeyboardInterrupt:
        _leave()


def stoppable(do: Callable[[], T], stop: "Event") -> T:
    """Do something that ends early when `stop` is set, as Ctrl-C does; a second one ends all.

    It is done by a thread beside this one, which is the one that is told of signals.
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
    """Do something in a thread of its own, which does not keep the program alive.

    Signals are answered meanwhile. The system may give one to any thread and Python answers it in
    this one, which nothing wakes where another was given it: so it looks up now and then.
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
    """End the program now, whatever its threads are at."""
    from rich.console import Console  # noqa: PLC0415

    Console(stderr=True).show_cursor(True)  # a progress bar had hidden it
    sys.stdout.flush()
    os._exit(ExitCode.INTERRUPTED)


@contextlib.contextmanager
def _reader_may_leave() -> Iterator[None]:
    """`attnviz … | head`: when the reader has seen enough, stop quietly."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.FAILED) from None
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def progress(label: str, *, quiet: bool = False) -> "Iterator[Callable[[int, int], None] | None]":
    """A bar on stderr for (done, total), drawn only on a terminal; None where there is none.

    Until something is told the bar only shows that work goes on.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
