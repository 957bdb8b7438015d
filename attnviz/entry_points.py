"""Entry points of installed packages, and warnings about what other packages do wrong."""

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def entry_points(group: str) -> "tuple[EntryPoint, ...]":
    """Entry points of a group, sorted by package and name; installed packages are read once."""
    return _installed().get(group, ())


@cache
def _installed() -> "dict[str, tuple[EntryPoint, ...]]":
    """The entry points of all groups that begin with `attnviz.`."""
    if not any(map(_may_have_some, sys.path)):
        return {}
    from importlib import metadata  # noqa: PLC0415 — only when a table is listed

    by_package: dict[str, list[EntryPoint]] = {}
    try:
        for package in metadata.distributions():
            # Only packages that have an attnviz entry point are parsed.
            if "[attnviz." in (package.read_text("entry_points.txt") or ""):
                # Of two packages of one name, the first is imported.
                by_package.setdefault(package.name, list(package.entry_points))
    except Exception as error:
        warn(f"installed packages cannot be read ({in_a_line(error)}); no entry points are used")
    groups: dict[str, tuple[EntryPoint, ...]] = {}
    points = [point for name in sorted(by_package) for point in by_package[name]]
    for point in sorted(points, key=lambda point: (package_of(point), point.name)):
        groups[point.group] = (*groups.get(point.group, ()), point)
    return groups


def _may_have_some(folder: str) -> bool:
    """Whether a package in a folder of `sys.path` may have an attnviz entry point.

    Reading all these files takes less time than importing `importlib.metadata`.
    """
    try:
        with os.scandir(folder or ".") as entries:
            infos = [e.path for e in entries if e.name.endswith((".dist-info", ".egg-info"))]
    except OSError:
        return os.path.isfile(folder)  # noqa: PTH113 — an archive; pathlib slows start-up
    for info in infos:
        try:
            with open(f"{info}/entry_points.txt", "rb") as file:  # noqa: PTH123
                if b"[attnviz." in file.read():
                    return True
        except OSError:
            continue
    return False


def package_of(point: "EntryPoint") -> str:
    """Name and version of the package that has an entry point."""
    return "unknown package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


_warned: set[str] = set()


def warn(line: str, *, once: str | None = None) -> None:
    """Log a warning once; without a logging configuration it is one line on standard error.

    Args:
        line: what is wrong and what to do.
        once: a key; warnings with the same key are logged once. The default is the line itself.
    """
    if (once or line) not in _warned:
        import logging  # noqa: PLC0415 — not for `--help`

        _warned.add(once or line)
        logging.getLogger("attnviz").warning("attnviz: warning: %s", line)


def in_a_line(error: BaseException) -> str:
    """An error's kind and text in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
