"""How a command takes groups of options."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer


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
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**made, **values)

    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters.append(
        inspect.Parameter("help", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Help)
    )
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    own = inspect.get_annotations(group)  # these come before those of the group that it extends
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in sorted(fields(group), key=lambda field: field.name not in own)
    ]
