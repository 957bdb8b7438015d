"""Everything that attnviz raises on purpose.

    AttnvizError            1   the root: catch this one
    ├── UsageError          2   an option or argument that cannot be meant
    ├── ImageError          1   a picture that cannot be read
    ├── ModelError          1   a model or its weights cannot be used
    ├── DeviceError         1   a device that is not there
    ├── RecordingError      1   nothing, or nothing usable, was recorded
    ├── MemoryLimitError    1   a request that would not fit in memory
    ├── MissingExtraError   1   an optional part that is not installed
    ├── OutputError         1   a file that cannot be written
    └── PluginError         1   another package's entry of a table that fails

The number is the exit code of the command line. A message is one line: what is wrong, with
which file or value, and the next thing to type.
"""

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
    """An option or argument that cannot be meant."""

    exit_code = ExitCode.USAGE


class ImageError(AttnvizError):
    """A picture that cannot be read."""


class ModelError(AttnvizError):
    """A model, or its weights, that cannot be used."""


class DeviceError(AttnvizError):
    """A device that was asked for by name and is not there."""


class RecordingError(AttnvizError):
    """A model run that left no attention call, or one that cannot be asked."""


class MemoryLimitError(AttnvizError):
    """A request that would need more memory than the stated limit."""


class MissingExtraError(AttnvizError):
    """An optional part of attnviz that is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part: pip install 'attnviz[{extra}]'")


class OutputError(AttnvizError):
    """A file or folder that cannot be written."""


class PluginError(AttnvizError):
    """The code of an entry that another package adds to a table, which fails."""
