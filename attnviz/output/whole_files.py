"""Writes files, each one whole or not at all, and finds those of earlier runs."""

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from attnviz.errors import OutputError, UsageError
from attnviz.methods import METHODS
from attnviz.output import FORMATS

SHEET, STATS, MAPS = "sheet", "stats", "maps.npz"
STATS_JSON = f"{STATS}.json"
COMPARE, DIFFERENCE, CHECKPOINTS = "compare", "difference", "checkpoints"
_PAGE = b'content="attnviz explore"'  # in the head of every page of `explore`
_ENDINGS = "|".join(FORMATS)
_OVERLAY = re.compile(
    rf"(layer\d+(-(head|component)\d+)?(-blend|-colours)?|localized|{'|'.join(METHODS)})(-(query|target|text)\d+)*\.({_ENDINGS})"
    r"|(layers|heads)\.(gif|webp|png|mp4)"
)
_COMPARED = re.compile(rf"({COMPARE}|{DIFFERENCE})-\d+\.({_ENDINGS})")
_PART = re.compile(r"\..+\.\d+\.part", re.DOTALL)


def folder_names(paths: Sequence[str]) -> list[str]:
    """A folder name for each picture: its file name, or all paths if two file names are equal.

    >>> folder_names(["a/cat.jpg", "b/cat.jpg"])
    ['a/cat.jpg', 'b/cat.jpg']

    Raises:
        UsageError: a picture is named twice.
    """
    # Do not resolve symbolic links: a link counts as a name of its own.
    absolute = [Path("/-/stdin" if path == "-" else os.path.abspath(path)) for path in paths]  # noqa: PTH100
    twice = next((path for path, n in Counter(absolute).items() if n > 1), None)
    if twice is not None:
        name = "standard input" if twice.parent == Path("/-") else twice
        raise UsageError(f"{name} is named twice; name every picture once")
    names = [path.name for path in absolute]
    if len(set(names)) == len(names):
        return names
    root = os.path.commonpath([path.parent for path in absolute])
    return [str(path.relative_to(root)) for path in absolute]


def method_folder(folder: Path, method: str, methods: Sequence[str]) -> Path:
    """The folder for the files of one method: a sub-folder if there are several methods.

    >>> method_folder(Path("out/cat.jpg"), "rollout", ["attention", "rollout"])
    PosixPath('out/cat.jpg/rollout')
    """
    return folder / method if len(methods) > 1 else folder


def check_folder(folder: Path) -> None:
    """Check that files can be written into a folder, before any work starts.

    Raises:
        OutputError: a file has the name of the folder, or of a folder above it.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise OutputError(f"{folder}: a file is where a folder must be; choose another --out")


def check_page(path: Path) -> None:
    """Check that a page can be written to a path: nothing is there, or an earlier page.

    Raises:
        OutputError: the path is something else, or a file has the name of its folder.
    """
    check_folder(path.parent)
    if not os.path.lexists(path):
        return
    try:
        with path.open("rb") as file:
            ours = _PAGE in file.read(4096)
    except OSError:
        ours = False
    if not ours:
        raise OutputError(f"{path}: is there, and no page of attnviz explore; choose another --out")


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it.

    Raises:
        OutputError: a file has that name, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(
            f"{folder}: a file is where a folder must be; choose another --out"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}); choose another --out"
        ) from error
    return folder


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path beside a file; the block writes there, then the file is renamed.

    >>> with writing(Path("stats.parquet")) as temporary:
    ...     size = temporary.write_bytes(b"PAR1")

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file under a temporary name beside it, then rename it: nobody sees half a file.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    with writing(path) as temporary:
        temporary.write_bytes(data)
    return path


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_parts(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder.

    Raises:
        OutputError: the folder cannot be read.
    """
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if _PART.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be looked at ({error.strerror})") from error


def earlier_files(folder: Path) -> set[str]:
    """Names of the files of an earlier run in a folder, as the record there lists them.

    A file that the record does not list is not ours, whatever its name.
    """
    beside = [*(f"{SHEET}.{kind}" for kind in FORMATS), MAPS]
    record = folder / STATS_JSON
    return _earlier(record, "attnviz/", parts=("heads", "blends"), pattern=_OVERLAY, beside=beside)


def earlier_comparison(folder: Path) -> set[str]:
    """Names of the files of an earlier comparison in a folder, as its record lists them."""
    beside = [f"{COMPARE}.{kind}" for kind in (*FORMATS, "npz")]
    beside += [f"{CHECKPOINTS}.{kind}" for kind in ("webp", "gif", "png", "mp4")]
    record, parts = folder / f"{COMPARE}.json", ("sides", "pairs")
    return _earlier(record, "attnviz/compare/", parts=parts, pattern=_COMPARED, beside=beside)


def written_files(folder: Path, names: Set[str]) -> set[str]:
    """Those of the given names that are a record of attnviz, or pictures drawn beside it."""
    found: set[str] = set()
    for record, stems, pattern in (
        (STATS_JSON, (SHEET,), _OVERLAY),
        (f"{COMPARE}.json", (COMPARE,), _COMPARED),
        ("evaluation.jsonl", ("evaluation",), None),
    ):
        if record in names and _is_ours(folder / record):
            beside = {f"{stem}.{kind}" for stem in stems for kind in FORMATS}
            found |= {record} | {
                n for n in names if n in beside or (pattern and pattern.fullmatch(n))
            }
    return found


def _is_ours(path: Path) -> bool:
    """Whether a file begins like a record of attnviz."""
    try:
        with path.open("rb") as file:
            return b'"schema": "attnviz/' in file.read(64).replace(b'":"', b'": "')
    except OSError:
        return False


def _earlier(
    path: Path,
    schema: str,
    *,
    parts: Sequence[str],
    pattern: re.Pattern[str],
    beside: Sequence[str],
) -> set[str]:
    """The existing files that the `parts` of a record name and that fit the pattern.

    If there are some, the files `beside` them are included.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        ours = str(record["schema"]).startswith(schema)
        entries = [entry for part in parts for entry in record.get(part) or ()]
        named = {entry.get("file") for entry in (*entries, record.get("animation") or {})}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    known_names = {name for name in named if isinstance(name, str) and pattern.fullmatch(name)}
    found = known_names | set(beside if known_names else ())
    return {name for name in found if ours and path.with_name(name).is_file()}


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove the named files of an earlier run, which this run does not replace."""
    for name in names:
        if not (folder / name).is_dir():
            (folder / name).unlink(missing_ok=True)
