"""How a command takes groups of options, and the panels that its help shows them in."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

LOOK, MODEL, WHERE = "What to look at", "Which model", "From where"
PICTURES, OUTPUT, MACHINE = "Pictures", "Output", "Machine"
_BRIEF = 45  # characters, as of Typer's own explanations of commands
PANELS = (LOOK, MODEL, WHERE, PICTURES, OUTPUT, MACHINE)
"""Headings of the help, in this order; `--help` itself comes last."""


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


def option(
    *names: str,
    panel: str = LOOK,
    complete: Callable[[], Iterable[str | tuple[str, str]]] | None = None,
    **settings: Any,
) -> Any:
    """An option of the command line, by its names.

    >>> option("--seed", panel=MODEL, help="Random seed.", min=0)

    Args:
        names: `--seed`, or `--model` and `-m`.
        panel: the heading of the help that it stands under, one of `PANELS`.
        complete: gives the values that a shell completes, or (value, explanation); it is called
            by the shell's request only.
        settings: what `typer.Option` takes.
    """
    if complete is not None:
        settings["autocompletion"] = _completion(complete)
    return typer.Option(*names, rich_help_panel=panel, **settings)


def _completion(complete: Callable[[], Iterable[str | tuple[str, str]]]) -> Callable[[str], Any]:
    def values(incomplete: str) -> list[str | tuple[str, str]]:  # noqa: ARG001 — Typer filters
        return [each if isinstance(each, str) else _brief(*each) for each in complete()]

    return values


def _brief(value: str, explanation: str) -> tuple[str, str]:
    """A value with so short an explanation that Typer does not wrap it: lines are values."""
    cut = explanation if len(explanation) <= _BRIEF else f"{explanation[: _BRIEF - 1].rstrip()}…"
    return value, cut


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
    """A parameter for each field; a group's own come before those of the groups it extends."""
    hints = get_type_hints(group, include_extras=True)
    names = [name for kind in group.__mro__ for name in inspect.get_annotations(kind)]
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in sorted(fields(group), key=lambda field: names.index(field.name))
    ]
