"""Reads picture files as bytes, lists those in a folder, and holds notes on how one was read."""

import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from attnviz.errors import ImageError

STDIN = "-"
SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif",
    ".jp2", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
"""File endings of pictures in a folder; for masks, the first existing one is used."""
OF_SCIENCES = (
    ".dcm", ".nii", ".nii.gz", ".svs", ".svslide", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu",
    ".zvi", ".czi",
)  # fmt: skip
"""File endings of further pictures in a folder of `batch`: scans, and whole slides."""

SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
"""File endings of sounds; in a folder they count if it has no picture."""


def read(path: str) -> bytes:
    """The bytes of a file, or of standard input if the path is `-`.

    Raises:
        ImageError: missing, a folder, empty or unreadable.
    """
    if path == STDIN:
        data = b"" if sys.stdin.isatty() else sys.stdin.buffer.read()
    else:
        try:
            with open(path, "rb", opener=_without_waiting) as file:
                data = b"" if _endless(file.fileno()) else file.read()
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file; check the path") from error
        except IsADirectoryError as error:
            raise ImageError(f"{path}: a folder; name the pictures in it: {path}/*.jpg") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{path}: cannot be read ({reason})") from error
    if not data:
        where = "standard input" if path == STDIN else path
        raise ImageError(f"{where}: empty; give a JPEG, PNG, WebP or another picture")
    return data


def read_file(path: str) -> tuple[bytes, os.stat_result]:
    """The bytes of a file, and its status from before it was read.

    Raises:
        ImageError: missing, empty, unreadable, or not a file but a pipe, a socket or a device.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 — names of any bytes
    except (OSError, ValueError):
        return read(path), os.stat_result([0] * 10)  # `read` raises the right error
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path}: a pipe, a socket or a device; name a file")
    return read(path), found


def file_digest(path: str) -> tuple[str, os.stat_result]:
    """SHA-256 of a file, read piece by piece, and its status from before it was read.

    Raises:
        ImageError: missing, unreadable, or not a file but a folder, a pipe, a socket or a device.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 — names of any bytes
        if stat.S_ISREG(found.st_mode):
            with open(path, "rb") as file:  # noqa: PTH123 — names of any bytes
                return hashlib.file_digest(file, "sha256").hexdigest(), found
    except (OSError, ValueError):
        pass
    data, found = read_file(path)  # raises the right error
    return hashlib.sha256(data).hexdigest(), found


def pictures_in(folder: str | Path) -> list[str]:
    """Paths of the pictures in a folder, or of its sounds if it has no picture, sorted by name.

    Subfolders are not searched.

    Raises:
        ImageError: there is no picture, or the folder cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 — names of any bytes
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror})") from error
    paths = [Path(folder) / name for name in names if not name.startswith(".")]
    for suffixes in (SUFFIXES, SOUNDS):
        found = [str(path) for path in paths if path.suffix.lower() in suffixes and path.is_file()]
        if found:
            break
    else:
        raise ImageError(
            f"{folder}: no picture in it; name a folder with {', '.join(SUFFIXES[:4])} …"
        )
    return found


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file's bytes, to recognise the same picture.

    Raises:
        ImageError: it cannot be read.
    """
    return hashlib.sha256(read(str(path))).hexdigest()


def _without_waiting(path: str, flags: int) -> int:
    """Open a file without waiting: a named pipe that nobody writes to counts as empty."""
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(number, True)
    return number


def _endless(number: int) -> bool:
    """Whether an open file is a device, such as /dev/zero: neither a file nor a pipe."""
    mode = os.fstat(number).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


KINDS = {
    "narrow": "their values use a small part of the range; add --range LO:HI or --range percentile",
    "own": "their type says no range: each is drawn from its smallest value to its largest; add "
    "--range LO:HI to draw all alike",
    "missing": "they have values that are no numbers, which are drawn black",
    "bands": "they have more bands than are drawn",
    "frames": "they have more pages or frames than the first, which is drawn",
    "bits": "only 8 bits of their samples are read",
    "sound": "their channels are averaged, or they are resampled to the model's rate",
    "long": "they are longer than what the model hears: their beginning",
}
"""Kinds of notes, each with a sentence for many pictures that have such a note."""


@dataclass(frozen=True)
class Note:
    """A sentence about one picture, without its name; `kind` is one of `KINDS`."""

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text
