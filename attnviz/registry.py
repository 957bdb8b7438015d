"""Tables of choices, their entries, and the entry points by which other packages add to them.

A table names its code as strings, so `--help`, `attnviz methods` and the documentation read it
without importing torch. A package adds an entry by an entry point, which has the table's group,
the entry's name, and the location of the entry object. If an entry point cannot be used, attnviz
logs one warning that names the package, and continues.
"""

import pkgutil
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attnviz.entry_points import entry_points, in_a_line, package_of, warn
from attnviz.errors import AttnvizError, PluginError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class Option:
    """An option that an entry declares: Python uses its name, the command line its flag.

    Attributes:
        name: a Python name; the flag has dashes instead of underscores.
        kind: `int`, `float`, `str`, `bool`, or the words to choose from.
        default: the value if none is given.
        help: a description in one sentence.
        minimum, maximum: bounds of a number, inclusive.
        metavar: the placeholder for the value in `--help`.
        pattern: a regular expression that the whole of a text must match.
        package: name and version of the package that adds it; empty for an option of attnviz.
    """

    name: str
    kind: type | tuple[str, ...]
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None
    pattern: str | None = None
    package: str = field(default="", kw_only=True)

    @property
    def flag(self) -> str:
        """The option's name on the command line.

        >>> Option("start_layer", int, 0, "First layer.").flag
        '--start-layer'
        """
        return f"--{self.name.replace('_', '-')}"

    def check(self, value: Any) -> None:
        """Refuse a value that the option cannot have.

        Raises:
            UsageError: the value has the wrong type, is none of the words, or is out of bounds.
        """
        if isinstance(self.kind, tuple):
            if value not in self.kind:
                raise UsageError(f"{self.flag} {value!r}: choose from {', '.join(self.kind)}")
            return
        kinds: Any = (int, float) if self.kind is float else self.kind
        if not isinstance(value, kinds) or isinstance(value, bool) != (self.kind is bool):
            raise UsageError(f"{self.flag} {value!r}: give a value of type {self.kind.__name__}")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise UsageError(f"{self.flag} {value!r} cannot be read; give such as {self.default}")
        low, high = self.minimum, self.maximum
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not inside:  # NaN is outside too
            bounds = [f"from {low}" * (low is not None), f"to {high}" * (high is not None)]
            raise UsageError(f"{self.flag} {value}: give a value {' '.join(filter(None, bounds))}")

    def fits(self, other: "Option") -> bool:
        """Whether both options can share one flag of the command line."""
        one, two = ((o.kind, o.minimum, o.maximum) for o in (self, other))
        return one == two


def complete(options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options by name, with defaults for those that are not given, or None."""
    return {
        option.name: option.default if given.get(option.name) is None else given[option.name]
        for option in options
    }


@dataclass(frozen=True)
class TableEntry:
    """One choice of a table: where its code is, a one-line summary, and its reference.

    Attributes:
        code: `package.module:name` of a function.
        summary: a description in one line.
        reference: a paper or a web page.
        package: name and version of the package that adds it; empty for an entry of attnviz.
    """

    code: str
    summary: str
    reference: str
    package: str = field(default="", kw_only=True)

    @property
    def declared_options(self) -> tuple[Option, ...]:
        """Options that the entry takes."""
        return ()

    def load(self) -> Any:
        """Import the code that this entry names.

        Raises:
            PluginError: the entry is from another package and cannot be imported.
        """
        return self.run(lambda: load(self.code))

    def __call__(self, *values: Any, **options: Any) -> Any:
        """Import the code that this entry names, and call it.

        Raises:
            PluginError: the entry is from another package and its code raises an exception.
        """
        code = self.load()
        return self.run(lambda: code(*values, **options))

    def run(self, do: Callable[[], T]) -> T:
        """Call `do`, and turn an exception from another package's code into an error that names it.

        Errors that attnviz raises on purpose and out-of-memory errors pass through unchanged.

        Raises:
            PluginError: the entry is from another package and its code raises an exception.
        """
        if not self.package:
            return do()
        try:
            return do()
        except (AttnvizError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and "allocate" in str(error):
                raise  # torch reports in this way that memory has run out
            raise PluginError(
                f"{self._failure(error)}; see the traceback with --debug, or remove the package"
            ) from error

    def _failure(self, error: BaseException) -> str:
        return f"{self.package}: {self.code} fails ({in_a_line(error)})"

    def run_or(self, otherwise: T, do: Callable[[], T]) -> T:
        """Call `do` for an entry that the user did not choose by name.

        If another package's code raises an exception, this is a warning and not an error.

        Args:
            otherwise: the result in that case.
            do: a function that calls the entry's code.
        """
        try:
            return self.run(do)
        except AttnvizError as error:
            if not self.package:
                raise
            cause = error.__cause__ if isinstance(error, PluginError) else None
            warn(f"{self._failure(cause or error)}; what it gives is left out")
            return otherwise


E = TypeVar("E", bound=TableEntry)


class Table(Mapping[str, E], Generic[E]):
    """Entries by name: first those of attnviz, then those that other packages add.

    Entry points are read when the table is listed, or when someone looks up a name that is not an
    entry of attnviz.

    Args:
        group: the group of the entry points, such as `attnviz.methods`.
        kind: the class of the entries.
        entries: the entries of attnviz.
        accepts: whether an entry of the group belongs to this table; by default every entry does.
        reserved: names that no other package may use.
        identifiers: whether names are fields of records and therefore must be Python names.
    """

    def __init__(
        self,
        group: str,
        kind: type[E],
        entries: Mapping[str, E],
        *,
        accepts: Callable[[E], bool] | None = None,
        reserved: Collection[str] = (),
        identifiers: bool = False,
    ) -> None:
        self.group, self.kind = group, kind
        self._own = dict(entries)
        self._accepts = accepts
        self._reserved, self._identifiers = frozenset(reserved), identifiers

    def __getitem__(self, name: str) -> E:
        return self._own[name] if name in self._own else self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"Table({self.group!r}, {list(self._own)})"

    @property
    def added(self) -> dict[str, E]:
        """The entries of other packages."""
        return {name: entry for name, entry in self._all.items() if entry.package}

    @property
    def options(self) -> dict[str, Option]:
        """All options that entries declare, each once, by name."""
        options: dict[str, Option] = {}
        for entry in self._all.values():
            for option in entry.declared_options:
                options.setdefault(option.name, replace(option, package=entry.package))
        return options

    @cached_property
    def _all(self) -> dict[str, E]:
        entries = dict(self._own)
        for point in entry_points(self.group):
            package = package_of(point)
            try:
                entry = self._entry(point, entries)
            except (Exception, SystemExit) as error:
                warn(
                    f"{package}: {point.name!r} of {self.group} is left out "
                    f"({in_a_line(error)}); correct or remove the package",
                    once=f"{package} {in_a_line(error)}",
                )
                continue
            if self._accepts is None or self._accepts(entry):
                entries[point.name] = replace(entry, package=package)
        return entries

    def _entry(self, point: "EntryPoint", entries: Mapping[str, E]) -> E:
        """The entry that an entry point names.

        Raises:
            Exception: the entry cannot be used; the message says why.
        """
        name = point.name
        if not _NAME.fullmatch(name) or (self._identifiers and not name.isidentifier()):
            raise ValueError(f"a name has small letters, digits and _, not {name!r}")
        if self._identifiers and name.startswith("model_"):
            raise ValueError(
                f"{name!r} begins with model_, and pydantic keeps such names of a record for itself"
            )
        if name in entries or name in self._reserved:
            raise ValueError(f"the name {name!r} is taken")
        entry = point.load()
        if not isinstance(entry, self.kind):
            raise TypeError(f"{point.value} is no {self.kind.__name__}")
        known = {o.name: o for other in entries.values() for o in other.declared_options}
        for option in entry.declared_options:
            if not option.name.isidentifier() or not option.fits(known.get(option.name, option)):
                raise ValueError(f"its option {option.name!r} differs from another entry's option")
        return entry


@cache
def load(code: str) -> Any:
    """Import the object at `package.module:name`.

    >>> load("math:sqrt")(9)
    3.0
    """
    return pkgutil.resolve_name(code)
