"""Errors of code that is not ours, in a line: what kind, what they say, in which file and line."""

import sysconfig
from pathlib import Path

import torch

LONGEST = 200
"""Characters of a message that are shown; some hold a traceback of their own."""
_PACKAGES = ("site-packages", "dist-packages")
_OURS = Path(__file__).resolve().parents[1]
_TORCH = Path(torch.__file__).resolve().parent
_STANDARD = Path(sysconfig.get_paths()["stdlib"]).resolve()


def describe(error: BaseException) -> str:
    """Kind, message and place of an error.

    >>> describe(KeyError("y"))
    "KeyError: 'y'"
    """
    where = place(error)
    kind, text = type(error).__name__, message(error)
    line = kind if text in ("", kind) else f"{kind}: {text}"
    return f"{line} ({where})" if where else line


def message(error: BaseException) -> str:
    """What an error says, on one line; its kind where it says nothing."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(text.split())[:LONGEST] or type(error).__name__


def place(error: BaseException) -> str | None:
    """File and line where an error was raised, as `nets.py, line 12`.

    That of the last call in code that is neither installed nor Python's own; where there is none,
    in a package that is neither torch nor attnviz. None where there is none either.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}, line {error.lineno}"
    installed = own = None
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        where = f"{Path(file).name}, line {trace.tb_lineno}"
        if _is_installed(file):
            installed = where
        elif not _is_library(file):
            own = where
        trace = trace.tb_next
    return own or installed


def _is_installed(file: str) -> bool:
    """Whether a file belongs to a package other than torch."""
    path = Path(file)
    return any(part in _PACKAGES for part in path.parts) and not _is_within(path, _TORCH, _OURS)


def _is_library(file: str) -> bool:
    """Whether a file is torch's, attnviz's, Python's, or no file at all."""
    return file.startswith("<") or _is_within(Path(file), _TORCH, _OURS, _STANDARD)


def _is_within(path: Path, *folders: Path) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)
