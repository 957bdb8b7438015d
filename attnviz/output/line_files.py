"""Files that grow line by line, and the lock of the folder that holds them."""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from attnviz.errors import OutputError
from attnviz.output.whole_files import writing

_BLOCK = 1 << 16  # bytes that are read at once when searching for the end of a line


def end_lines(path: Path) -> None:
    """Remove an unfinished last line from a file, so that the next line starts on its own.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with path.open("a+b") as file:
            end = file.tell()
            while end:
                start = max(0, end - _BLOCK)
                file.seek(start)
                found = file.read(end - start).rfind(b"\n")
                if found >= 0:
                    end = start + found + 1
                    break
                end = start
            file.truncate(end)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


class Lines:
    """A file that grows by one write per line; the caller closes it with `close`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def add(self, line: bytes) -> None:
        """Add a line. It is in the file when this returns; a killed process may leave half of it.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            written = self._file.write(line)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
        if written != len(line):  # the disk is nearly full: it has room for a part
            raise OutputError(f"{self._path}: cannot be written (No space left on device)")

    def close(self) -> None:
        """Close the file; no more lines can be added."""
        self._file.close()


def lock(path: Path, folder: Path, *, shared: bool = False) -> IO[bytes]:
    """Lock a folder against other processes until the returned file is closed.

    The operating system holds the lock, so it also ends when the process is killed. Several
    processes may hold a `shared` lock, while none holds another (Windows has no shared locks).

    Raises:
        OutputError: another process holds the lock, or the file cannot be written.
    """
    try:
        file = path.open("a+b")  # network file systems want a shared lock to be readable
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        _hold(file, shared=shared)
    except OSError as error:
        file.close()
        raise OutputError(
            f"{folder}: another run writes there; wait until it is done, or choose another --out"
        ) from error
    return file


def _hold(file: IO[bytes], *, shared: bool) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        if not shared:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def append(path: Path, text: str) -> None:
    """Add a line to a file.

    The line is in the file when this returns. A process that is killed may leave half of it.

    Raises:
        OutputError: the file cannot be written.
    """
    with contextlib.closing(Lines(path)) as lines:
        lines.add(f"{text}\n".encode())


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that `append` wrote, without an unfinished last one.

    There are no lines if there is no file.

    Raises:
        OutputError: the file exists and cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror})") from error
    *lines, _ = data.decode("utf-8", "replace").split("\n")
    return lines


def write_lines(path: Path, lines: Iterable[bytes]) -> Path:
    """Write a file line by line; like `write_whole`, it never leaves half a file.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    with writing(path) as temporary, temporary.open("wb") as file:
        file.writelines(lines)
    return path
