"""How a command takes groups of options."""

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import Field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from attnviz.cli.options.method_options import TableOptions


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

    @functools.wraps(command)
    def flat(*, help: bool, **values: Any) -> None:  # noqa: ARG001, A002 — its callback acts
        made = {name: _make(kind, values) for name, kind in groups.items()}
        command(**made, **values)

    signature = inspect.signature(command).parameters
    taken = {"help", *signature} | {
        field.name for kind in groups.values() for field in fields(kind)
    }
    parameters = []
    for name, parameter in signature.items():
        if name in groups:
            parameters += _parameters(groups[name], taken)
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters.append(
        inspect.Parameter("help", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Help)
    )
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def _make(group: Any, values: dict[str, Any]) -> Any:
    """A group with its values taken out of those of all options."""
    made = {}
    for field in fields(group):
        table = _table(group, field)
        made[field.name] = values.pop(field.name) if table is None else table.take(values)
    return group(**made)


def _parameters(group: type, taken: Collection[str]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    own = inspect.get_annotations(group)  # these come before those of the group that it extends
    found = []
    for field in sorted(fields(group), key=lambda field: field.name not in own):
        table = _table(group, field)
        found += (
            table.parameters(taken)
            if table is not None
            else [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=hints[field.name],
                )
            ]
        )
    return found


def _table(group: type, field: "Field[Any]") -> TableOptions | None:
    """The options that a field stands for, if it is filled from a table."""
    hint = get_type_hints(group, include_extras=True)[field.name]
    return next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, TableOptions)), None)
