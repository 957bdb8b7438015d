"""Makes command-line options from those that table entries declare, including plugins' entries."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from attnviz.batch import finalizers
from attnviz.cli.options.panels import LOOK, OUTPUT
from attnviz.entry_points import warn
from attnviz.methods import METHODS
from attnviz.registry import Option
from attnviz.statistics import MORE, STATISTICS


@dataclass(frozen=True)
class TableOptions:
    """Marks a field of a group that holds the given options of a table, by name.

    Attributes:
        options: returns the options by name.
        panel: the heading of the help that shows them.
    """

    options: Callable[[], Mapping[str, Option]]
    panel: str = LOOK

    def free(self, taken: set[str]) -> dict[str, Option]:
        """The options whose names a command does not have yet; they are added to `taken`.

        If another package's option has a name that the command has, it is left out with a warning.
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


def as_parameter(option: Option, panel: str) -> inspect.Parameter:
    """An option as a parameter of a command, under a heading of its help."""
    kind = annotation(option, panel)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def annotation(option: Option, panel: str = LOOK) -> Any:
    """The annotation from which Typer reads an option; None means that it is not given."""
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
            rich_help_panel=panel,
            **bounds,
        ),
    ]  # fmt: skip


def _default(value: Any) -> str:
    """The default value after the help of an option; empty for a flag that is off."""
    if value is None or value is False:
        return ""
    return f"  [default: {value:g}]" if isinstance(value, float) else f"  [default: {value}]"


def choices(names: Iterable[str]) -> Any:
    """The names of a table as choices for Typer."""
    return Literal[tuple(names)]


Settings = Annotated[dict[str, Any], TableOptions(lambda: METHODS.options)]
"""The given options of the methods, by name."""
AllSettings = Annotated[
    dict[str, Any], TableOptions(lambda: STATISTICS.options | MORE.options | METHODS.options)
]
"""The given options of the methods and of the statistics, by name."""
Finalizers = Annotated[dict[str, Any], TableOptions(finalizers.options, OUTPUT)]
"""The finalizers of a batch that are requested: True by name."""
