"""How a command takes groups of options."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from attnviz.cli.options.method_options import TableOptions, as_parameter
from attnviz.registry import Option


def _show_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", callback=_show_help, is_eager=True, help="Show this message and exit."
    ),
]
"""Typer's own help option is coerced by pydantic even when it is absent: 0.15 s for nothing."""


def option(*names: str, **settings: Any) -> Any:
    """An option of the command line, by its names."""
    return typer.Option(*names, **settings)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--help`, and an option for each field of the groups among its parameters.

    Typer sees one flat signature; the command gets its groups made and checked.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    signature = inspect.signature(command).parameters
    own = [field.name for kind in groups.values() for field in fields(kind)]
    tables = _tables(groups.values(), {"help", *signature, *own})

    @functools.wraps(command)
    def flat(*, help: bool, **values: Any) -> None:  # noqa: ARG001, A002 — its callback acts
        made = {name: _make(kind, tables, values) for name, kind in groups.items()}
        command(**made, **values)

    parameters = []
    for name, parameter in signature.items():
        if name in groups:
            parameters += _parameters(groups[name], tables)
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters.append(
        inspect.Parameter("help", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Help)
    )
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


Tables = dict[tuple[type, str], dict[str, Option]]
"""Of each group and field that is filled from a table, the options."""


def _tables(groups: Iterable[type], taken: set[str]) -> Tables:
    """The options from tables of all groups; `taken` are the command's own."""
    found: Tables = {}
    for group in groups:
        for name, hint in get_type_hints(group, include_extras=True).items():
            for mark in getattr(hint, "__metadata__", ()):
                if isinstance(mark, TableOptions):
                    found[group, name] = mark.free(taken)
    return found


def _make(group: Any, tables: Tables, values: dict[str, Any]) -> Any:
    """A group with its values taken out of those of all options."""
    made = {}
    for field in fields(group):
        if (group, field.name) in tables:
            given = {name: values.pop(name) for name in tables[group, field.name]}
            made[field.name] = {n: value for n, value in given.items() if value is not None}
        else:
            made[field.name] = values.pop(field.name)
    return group(**made)


def _parameters(group: type, tables: Tables) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    own = inspect.get_annotations(group)  # these come before those of the group that it extends
    found = []
    for field in sorted(fields(group), key=lambda field: field.name not in own):
        if (group, field.name) in tables:
            found += [as_parameter(option) for option in tables[group, field.name].values()]
            continue
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
        )
    return found
