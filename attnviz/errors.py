"""The errors that attnviz raises on purpose.

    AttnvizError            1   the root: catch this one
    ├── UsageError          2   an option or argument is wrong
    │   └── NotFoundError   2   a picture has nothing of what was asked for
    ├── ImageError          1   a picture cannot be read
    ├── ModelError          1   a model or its weights cannot be used
    │   └── MisfitError     1   weights do not fit a model; three lines say why
    ├── DeviceError         1   a device does not exist
    ├── RecordingError      1   nothing, or nothing usable, was recorded
    ├── MemoryLimitError    1   a request needs more memory than allowed
    ├── MissingExtraError   1   an optional part is not installed
    ├── OutputError         1   a file or folder cannot be written
    └── PluginError         1   a table entry of another package fails

The number is the exit code of the command line. A message is one line: what is wrong, with
which file or value, and the next thing to type.
"""

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SOME_FAILED = 3
    INTERRUPTED = 130


class AttnvizError(Exception):
    """The root of all errors that attnviz raises on purpose.

    >>> try:
    ...     attnviz.load_image("nowhere.png")
    ... except AttnvizError as error:
    ...     print(error, int(error.exit_code))
    nowhere.png: no such file; check the path 1
    """

    exit_code = ExitCode.FAILED


class UsageError(AttnvizError):
    """An option or argument is wrong."""

    exit_code = ExitCode.USAGE


class NotFoundError(UsageError):
    """A picture has nothing of what was asked for; another one may have it."""


class ImageError(AttnvizError):
    """A picture cannot be read."""


class ModelError(AttnvizError):
    """A model or its weights cannot be used."""


class MisfitError(ModelError):
    """Weights do not fit a model: what, which weights, and what to try, each in a line."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class DeviceError(AttnvizError):
    """A device that the user named does not exist."""


class RecordingError(AttnvizError):
    """A model run has no attention calls, or a call cannot give the requested result."""


class MemoryLimitError(AttnvizError):
    """A request needs more memory than the limit."""


class MissingExtraError(AttnvizError):
    """An optional part of attnviz is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: pip install 'attnviz[{extra}]'")


class OutputError(AttnvizError):
    """A file or folder cannot be written."""


class PluginError(AttnvizError):
    """A table entry that another package adds fails."""


def closest(name: str, choices: Iterable[str], *, limit: int = 3) -> list[str]:
    """Known names that are similar to an unknown name, the most similar first.

    A known name that begins with the unknown name counts as similar.

    >>> closest("rolout", ["attention", "rollout"])
    ['rollout']
    >>> closest("dino", ["vit-base", "dino-vits8", "dinov2-base"])
    ['dino-vits8', 'dinov2-base']
    """
    from difflib import get_close_matches  # noqa: PLC0415 — needed only for a wrong name

    names = {each.lower(): each for each in choices}
    wanted = name.lower()
    close = get_close_matches(wanted, names, n=limit, cutoff=0.7)
    begun = [each for each in names if len(wanted) > 2 and each.startswith(wanted)]
    return [names[each] for each in dict.fromkeys([*close, *begun])][:limit]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """`; did you mean …?` with the known names that are similar, or an empty string.

    >>> did_you_mean("rolout", ["attention", "rollout"])
    '; did you mean rollout?'
    """
    found = closest(name, choices)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def unknown(kind: str, name: str, choices: Iterable[str], *, see: str) -> UsageError:
    """The error for a name that a table does not have; `see` is the command that lists its names.

    >>> str(unknown("method", "rolout", ["attention", "rollout"], see="attnviz methods"))
    "unknown method 'rolout'; did you mean rollout? Else see `attnviz methods`"
    >>> str(unknown("method", "x", ["attention", "rollout"], see="attnviz methods"))
    "unknown method 'x'; choose from attention, rollout, or see `attnviz methods`"
    """
    names = list(choices)
    hint = did_you_mean(name, names)
    if hint:
        return UsageError(f"unknown {kind} {name!r}{hint} Else see `{see}`")
    return UsageError(f"unknown {kind} {name!r}; choose from {', '.join(names)}, or see `{see}`")
