"""What went wrong between a spec and a model, in a line with what to type next."""

import difflib
import importlib
import importlib.util
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from functools import cache as cached
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from attnviz.errors import AttnvizError, MissingExtraError, ModelError
from attnviz.models import cache
from attnviz.models.aliases import ALIASES

T = TypeVar("T")
# Kinds of errors are named, since which library raises them differs, and none need be installed.
_UNREACHED = {
    "ConnectError", "ConnectTimeout", "ConnectionError", "LocalEntryNotFoundError",
    "NetworkError", "ReadTimeout", "TimeoutException", "URLError",
}  # fmt: skip
_OFFLINE = {"OfflineModeIsEnabled", *_UNREACHED} - {"URLError"}
# The first that is met; a gated repository is also one that is not found.
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
        ModelError: it is, and does not import.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library that does not fit torch raises what it likes
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise MissingExtraError(f"{spec}: loading it", extra) from error
        raise ModelError(_broken(spec, name, error)) from error


def tried(spec: str, name: str, do: Callable[[], T]) -> T:
    """What `do` gives; its errors in a line, with what to type next.

    Args:
        spec: how the model was named.
        name: what the hub, the library or the disk knows it by.
        do: loads it, or a part of it.

    Raises:
        ModelError: it failed.
    """
    try:
        return do()
    except AttnvizError:
        raise
    except Exception as error:  # of many kinds: hub, json, safetensors, unknown model types …
        raise ModelError(explain(spec, name, error)) from error


def explain(spec: str, name: str, error: BaseException) -> str:
    """A line about why a model could not be loaded."""
    kinds = {kind.__name__ for e in _chain(error) for kind in type(e).__mro__}
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


def nearest(name: str, candidates: Iterable[str] = ()) -> str:
    """`, did you mean …?` with names that look like it; nothing where none does.

    >>> nearest("dinov2-smal")
    '; did you mean dinov2-small or dinov3-small or swinv2-small?'
    """
    names = {candidate.lower(): candidate for candidate in candidates}
    if not names:
        names = {alias.spec.partition(":")[2].lower(): short for short, alias in ALIASES.items()}
        names |= {short: short for short in ALIASES}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.75)
    found = list(dict.fromkeys(names[match] for match in close))
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _broken(spec: str, what: str, error: BaseException) -> str:
    root = list(_chain(error))[-1]
    return f"{spec}: {what} does not import ({_reason(root)}); run `attnviz doctor`"


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    visited: set[int] = set()
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


LONGEST = 200
"""Characters of a message that are shown; some hold a traceback of their own."""
_PACKAGES = ("site-packages", "dist-packages")
_OURS = Path(__file__).resolve().parents[1]
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
    """The folder of torch, which is not imported for a slip of the pen."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent
