"""Files that grow line by line, and the lock of the folder that holds them."""

import sys
from pathlib import Path
from typing import IO

from attnviz.errors import OutputError

_BLOCK = 1 << 16  # bytes that are read at once, in search of the end of a line


def end_lines(path: Path) -> None:
    """Make a file of lines end with a whole one, so that the next is one of its own.

    Raises:
        OutputError: it cannot be written.
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
    """A file that lines are added to, each by one write; `close` it in the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error

    def add(self, line: bytes) -> None:
        """Add a line, which is there when this returns; broken off, its end is missing.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            written = self._file.write(line)
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror})") from error
        if written != len(line):  # what a disk that is nearly full has room for
            raise OutputError(f"{self._path}: cannot be written (No space left on device)")

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def lock(path: Path, folder: Path) -> IO[bytes]:
    """Keep other processes out of a folder until the file that is returned is closed.

    The lock is the system's own: it ends with the process, however that ends.

    Raises:
        OutputError: another process is in it, or the file cannot be written.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    try:
        _hold(file)
    except OSError as error:
        file.close()
        raise OutputError(
            f"{folder}: another run writes there; wait until it is done, or choose another --out"
        ) from error
    return file


def _hold(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
