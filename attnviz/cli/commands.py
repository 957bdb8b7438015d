"""The base of all commands: help in panels, suggestions for wrong names, one use per option."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from attnviz.cli.options.panels import PANELS
from attnviz.cli.value_checks import check_values
from attnviz.errors import UsageError, closest

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
