"""The base of all commands: help in panels, checks of typed values, one use per option."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from attnviz import methods, models
from attnviz.cli.options.groups import PANELS
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError, closest, did_you_mean
from attnviz.explanation.selection import parse_heads, parse_layers
from attnviz.geometry import queries
from attnviz.io.parts import parse_channels, parse_region
from attnviz.io.ranges import parse_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


_REST = "Help"
"""The panel of options without a panel of their own."""


class Command(TyperCommand):
    """A command with panels in its help; it refuses an option that is given twice."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Read the arguments.

        Raises:
            UsageError: an option with one value is given twice, or a value is not possible.
        """
        if not ctx.resilient_parsing:  # completion reads half a line
            given, _, order = self.make_parser(ctx).parse_args(list(args))
            check_repeated(order, args)
            if not given.get("help"):
                check_values(self.get_params(ctx), given)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each under the heading of its panel."""
        for title, rows in panels(self, ctx):
            _write(formatter, title, rows)


class Group(TyperGroup):
    """The program itself, with its commands."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands first, then the options."""
        limit = formatter.width - 6 - max(map(len, self.commands))
        names = [(name, each.get_short_help_str(limit)) for name, each in self.commands.items()]
        _write(formatter, "Commands", names)
        for _, rows in panels(self, ctx):
            _write(formatter, "Options", rows)


def _write(formatter: Any, title: str, rows: list[tuple[str, str]]) -> None:
    """Write a heading and its rows, in colour on a terminal."""
    if is_coloured():
        title = typer.style(title, bold=True)
        rows = [(typer.style(name, fg="cyan"), text) for name, text in rows]
    with formatter.section(title):
        formatter.write_dl(rows)


def is_coloured() -> bool:
    """Whether stdout is a terminal that shows colours, and colours are not switched off."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    return not plain and sys.stdout.isatty()


def panels(command: TyperCommand | TyperGroup, ctx: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """Rows of the help by heading; arguments come first, under the first heading."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in (*PANELS, _REST)}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            argument = param.param_type_name == "argument"
            panel = PANELS[0] if argument else getattr(param, "rich_help_panel", None)
            found[panel or _REST].append(record)
    return [(name, rows) for name, rows in found.items() if rows]


def check_repeated(order: Iterable[Any], args: Sequence[str]) -> None:
    """Check that every option with one value is given once; `order` lists the given options.

    Raises:
        UsageError: an option is given twice; the second would silently replace the first.
    """
    seen: set[str] = set()
    for param in order:
        if param.param_type_name != "option" or param.multiple:
            continue
        if param.name in seen:
            names = [*param.opts, *param.secondary_opts]
            given = [each for each in names if any(_is(arg, each) for arg in args)] or names
            raise UsageError(f"{' and '.join(given)}: given twice; give it once")
        seen.add(param.name)


def _is(arg: str, name: str) -> bool:
    return arg == name or arg.startswith(f"{name}=")


def option_error(name: str, command: str, commands: Mapping[str, Any]) -> str:
    """The error line for an option that a command does not have, with what to type instead."""
    see = f"`attnviz {command} --help`" if command else "`attnviz --help`"
    takers = [other for other, each in commands.items() if name in _options(each)]
    if command and takers:
        have = "has" if len(takers) == 1 else "have"
        return f"{command} has no option {name}; {', '.join(takers)} {have} it; see {see}"
    found = closest(name, _options(commands[command]) if command else ())
    hint = f"did you mean {' or '.join(found)}? Else see" if found else "see"
    return f"unknown option {name}; {hint} {see}"


def _options(command: Any) -> list[str]:
    return [name for param in command.params for name in param.opts if name[0] == "-"]


CHECKS: dict[str, Callable[[str], object]] = {
    "method": methods.find_method,
    "model": models.find_source,
    "heads": parse_heads,
    "layers": parse_layers,
    "query": queries.parse,
    "scale": parse_scale,
    "range": parse_range,
    "channels": parse_channels,
    "region": parse_region,
}
"""For each option name, the function that checks its values."""


def check_values(params: Iterable[Any], given: Mapping[str, Any]) -> None:
    """Refuse impossible values: unknown words, bad numbers, and names that no table has.

    Args:
        params: the options of a command, as Typer has them.
        given: the typed values by option name.

    Raises:
        UsageError: a value is an unknown word or name, not a number, or out of bounds.
    """
    for param in params:
        if param.param_type_name != "option" or param.is_flag:
            continue
        value = given.get(param.name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                _check(param, text)


def _check(param: Any, text: str) -> None:
    flag, kind = param.opts[0], param.type_descriptor.annotation
    choices = param.type_descriptor.choices
    if choices is not None and text not in choices:
        hint = did_you_mean(text, choices) or f"; choose from {', '.join(choices)}"
        raise UsageError(f"{flag}: unknown value {text!r}{hint}")
    if kind in (int, float):
        _check_number(flag, kind, text, param.min, param.max)
    if param.name in CHECKS:
        CHECKS[param.name](text)


def _check_number(
    flag: str, kind: Callable[[str], float], text: str, low: float | None, high: float | None
) -> None:
    bounds = [f"from {low}" * (low is not None), f"to {high}" * (high is not None)]
    wanted = " ".join(["a whole number" if kind is int else "a number", *filter(None, bounds)])
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{flag} {text!r} is no number; give {wanted}") from None
    if not ((low is None or value >= low) and (high is None or value <= high)):
        raise UsageError(f"{flag} {text}: give {wanted}")
