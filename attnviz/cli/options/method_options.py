"""Options of the command line that the entries of tables declare, those of plugins among them."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from attnviz.methods import METHODS
from attnviz.registry import Option, warn


@dataclass(frozen=True)
class TableOptions:
    """Marks a field of a group that holds the options of a table: those given, by their names.

    Attributes:
        options: gives the options, by their names.
    """

    options: Callable[[], Mapping[str, Option]]

    def parameters(self, taken: Collection[str]) -> list[inspect.Parameter]:
        """A parameter for each option; one whose name a command has already is left out.

        Args:
            taken: names of the command's own options.
        """
        found = []
        for name, option in self.options().items():
            if name in taken:
                warn(f"{option.flag} of a plugin is an option of every command; rename it")
            else:
                found.append(
                    inspect.Parameter(
                        name, inspect.Parameter.KEYWORD_ONLY, default=None,
                        annotation=annotation(option),
                    )
                )  # fmt: skip
        return found

    def take(self, values: dict[str, Any]) -> dict[str, Any]:
        """Take the options out of those of a command; what is left is those given."""
        found = {name: values.pop(name, None) for name in self.options()}
        return {name: value for name, value in found.items() if value is not None}


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


def choices(names: Collection[str]) -> Any:
    """The names of a table, as Typer reads the words to choose from."""
    return Literal[tuple(names)]


Settings = Annotated[dict[str, Any], TableOptions(lambda: METHODS.options)]
"""Options of the methods that are given, by their names."""
