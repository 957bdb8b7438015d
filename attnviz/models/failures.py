"""Turns exceptions of model loading into one line that says what is wrong and what to type."""

import importlib
import importlib.util
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache as cached
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from attnviz.errors import AttnvizError, MissingExtraError, ModelError
from attnviz.models import cache, memory
from attnviz.models.aliases import nearest

T = TypeVar("T")
# Errors are matched by class name: different libraries raise them, and none need be installed.
_UNREACHED = {
    "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError",
    "NetworkError", "ReadTimeout", "TimeoutException", "URLError",
}  # fmt: skip
_OFFLINE = {"OfflineModeIsEnabled", *_UNREACHED} - {"URLError"}
# The first match counts; a gated repository also counts as not found.
_SAID = {
    "GatedRepoError": "{spec}: its owners ask for your consent; give it at "
    "https://huggingface.co/{name}, then run `hf auth login`",
    "RevisionNotFoundError": "{spec}: the hub knows {name}, but not this revision; leave @REV out, "
    "or correct it",
    "RepositoryNotFoundError": "{spec}: the hub has no model {name}{nearest}; correct it (see "
    "`attnviz models`), or run `hf auth login` if it is private",
}
_NO_NETWORK = (
    "{spec}: not in the local cache, and the network cannot be reached; try again when it can, or "
    "give --random-weights with a name that `attnviz models` lists"
)
_ELSE = (
    "{spec}: cannot be loaded ({reason}); check the name (see `attnviz models`), or run again with "
    "--debug"
)


def optional(name: str, extra: str, spec: str) -> ModuleType:
    """Import an optional library.

    Raises:
        MissingExtraError: it is not installed.
        ModelError: it is installed, but its import fails.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library that does not fit torch may raise anything
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(f"{spec}: loading it", extra) from error
        raise ModelError(_broken(spec, name, error)) from error


def tried(spec: str, name: str, do: Callable[[], T]) -> T:
    """The result of `do`; its exceptions become one line that says what to type next.

    Args:
        spec: the model's spec.
        name: the model's name on the hub, in the library or on disk.
        do: loads the model, or a part of it.

    Raises:
        ModelError: `do` failed.
    """
    try:
        return do()
    except AttnvizError:
        raise
    except Exception as error:  # of many kinds: hub, json, safetensors, unknown model types …
        raise ModelError(explain(spec, name, error)) from error


def explain(spec: str, name: str, error: BaseException) -> str:
    """One line that says why a model could not be loaded."""
    kinds = {kind.__name__ for e in _chain(error) for kind in type(e).__mro__}
    if any(map(memory.is_exhausted, _chain(error))):
        return (
            f"{spec}: out of memory while it was loaded; give a smaller model, or run it where "
            "there is more memory"
        )
    if "ImportError" in kinds:
        return _broken(spec, "a library it needs", error)
    if Path(name).is_dir():
        advice = "give a folder that transformers' save_pretrained wrote"
        return f"{spec}: cannot be loaded ({_reason(error)}); {advice}"
    switch = cache.offline()
    if switch and kinds & _OFFLINE:
        return (
            f"{spec}: not in the local cache {cache.folder()}, and {switch} forbids to download "
            f"it; unset {switch}"
        )
    text = next((text for kind, text in _SAID.items() if kind in kinds), _ELSE)
    if kinds & _UNREACHED and text == _ELSE:
        text = _NO_NETWORK
    return text.format(spec=spec, name=name, nearest=nearest(name), reason=_reason(error))


def _broken(spec: str, what: str, error: BaseException) -> str:
    root = list(_chain(error))[-1]
    return f"{spec}: {what} does not import ({_reason(root)}); run `attnviz doctor`"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the errors that caused it."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


LONGEST = 200
"""Characters of a message that are shown; some messages hold a whole traceback."""
_PACKAGES = ("site-packages", "dist-packages")
_OURS = Path(__file__).resolve().parents[1]
_STANDARD = Path(sysconfig.get_paths()["stdlib"]).resolve()


def describe(error: BaseException) -> str:
    """Class, message and place of an error.

    >>> describe(KeyError("y"))
    "KeyError: 'y'"
    """
    where = place(error)
    kind, text = type(error).__name__, message(error)
    line = kind if text in ("", kind) else f"{kind}: {text}"
    return f"{line} ({where})" if where else line


def message(error: BaseException) -> str:
    """The message of an error on one line; its class name if it has no message."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(text.split())[:LONGEST] or type(error).__name__


def place(error: BaseException) -> str | None:
    """File and line where an error was raised, as `nets.py, line 12`.

    This is the last call in code that is neither installed nor part of Python. If there is none, it
    is the last call in a package other than torch and attnviz. None if there is none either.
    """
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{Path(error.filename).name}, line {error.lineno}"
    installed = place = None
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        where = f"{Path(file).name}, line {trace.tb_lineno}"
        if _is_installed(file):
            installed = where
        elif not _is_library(file):
            place = where
        trace = trace.tb_next
    return place or installed


def _is_installed(file: str) -> bool:
    """Whether a file belongs to a package other than torch."""
    path = Path(file)
    return any(part in _PACKAGES for part in path.parts) and not _is_within(path, _torch(), _OURS)


def _is_library(file: str) -> bool:
    """Whether a file is torch's, attnviz's, Python's, or no file at all."""
    return file.startswith("<") or _is_within(Path(file), _torch(), _OURS, _STANDARD)


def _is_within(path: Path, *folders: Path) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


@cached
def _torch() -> Path:
    """The folder of torch, found without importing torch."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent
