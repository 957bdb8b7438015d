"""Options of the command line that the entries of tables declare, those of plugins among them."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from attnviz.batch import finalizers
from attnviz.methods import METHODS
from attnviz.registry import Option, warn


@dataclass(frozen=True)
class TableOptions:
    """Marks a field of a group that holds the options of a table: those given, by their names.

    Attributes:
        options: gives the options, by their names.
    """

    options: Callable[[], Mapping[str, Option]]

    def free(self, taken: set[str]) -> dict[str, Option]:
        """The options whose names a command does not have yet; they are added to `taken`.

        One of another package that it has is left out with a warning.
        """
        found = {}
        for name, option in self.options().items():
            if name in taken:
                warn(
                    f"{option.package}: its option {option.flag} is left out, since `attnviz` has "
                    "one of that name; rename it"
                )
            else:
                taken.add(name)
                found[name] = option
        return found


def as_parameter(option: Option) -> inspect.Parameter:
    """An option as a parameter of a command."""
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation(option)
    )


def annotation(option: Option) -> Any:
    """An option as Typer reads it; None is an option that is not given."""
    kind: Any = Literal[option.kind] if isinstance(option.kind, tuple) else option.kind
    bounds: dict[str, Any] = {}
    if kind in (int, float):
        bounds = {"min": option.minimum, "max": option.maximum}
    return Annotated[
        kind | None,
        typer.Option(
            f"{option.flag}/--no-{option.flag[2:]}" if kind is bool and option.default is True
            else option.flag,
            help=f"{option.help}{_default(option.default)}",
            metavar=option.metavar,
            **bounds,
        ),
    ]  # fmt: skip


def _default(value: Any) -> str:
    """What stands behind the help of an option; nothing of a flag that is off."""
    if value is None or value is False:
        return ""
    return f"  [default: {value:g}]" if isinstance(value, float) else f"  [default: {value}]"


def choices(names: Iterable[str]) -> Any:
    """The names of a table, as Typer reads the words to choose from."""
    return Literal[tuple(names)]


Settings = Annotated[dict[str, Any], TableOptions(lambda: METHODS.options)]
"""Options of the methods that are given, by their names."""
Finalizers = Annotated[dict[str, Any], TableOptions(finalizers.options)]
"""What is made of all pictures of a batch, beside what always is: true by its name."""
