"""Makes options, from groups and tables, and gives them to commands under panels of the help."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial, wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer

from attnviz.batch import finalizers
from attnviz.entry_points import warn
from attnviz.evaluation import METRICS
from attnviz.methods import METHODS
from attnviz.registry import Option
from attnviz.statistics import MORE, STATISTICS

LOOK, MODEL, WHERE = "What to look at", "Which model", "From where"
PICTURES, OUTPUT, MACHINE = "Pictures", "Output", "Machine"
PANELS = (LOOK, MODEL, WHERE, PICTURES, OUTPUT, MACHINE)
"""All headings in the order of the help; `--help` itself comes last."""


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
MetricSettings = Annotated[dict[str, Any], TableOptions(lambda: METRICS.options)]
"""The given options of the metrics, by name."""
Finalizers = Annotated[dict[str, Any], TableOptions(finalizers.options, OUTPUT)]
"""The finalizers of a batch that are requested: True by name."""


_BRIEF = 45  # characters, as in Typer's own explanations of commands


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
"""The option `--help`. Typer's own one goes through pydantic even if it is absent: 0.15 s."""


def option(
    names: str,
    help: str,  # noqa: A002 — Typer's name for it
    panel: str = LOOK,
    *,
    complete: Callable[[], Iterable[str | tuple[str, str]]] | None = None,
    **settings: Any,
) -> Any:
    """An option of the command line.

    >>> option("--seed", "Random seed.", MACHINE, min=0).help
    'Random seed.'

    Args:
        names: `--seed`, or `--model -m`.
        help: its help, in one or two sentences.
        panel: the heading of the help that shows it, one of `PANELS`.
        complete: returns the values that a shell completes, or (value, explanation); only a
            shell's request calls it.
        settings: further arguments of `typer.Option`.
    """
    if complete is not None:
        settings["autocompletion"] = _completion(complete)
    return typer.Option(*names.split(), help=help, rich_help_panel=panel, **settings)


def option_field(
    default: Any,
    help: str,  # noqa: A002
    panel: str = LOOK,
    *,
    names: str = "",
    complete: Callable[[], Iterable[str | tuple[str, str]]] | None = None,
    **settings: Any,
) -> Any:
    """A field of a group that is an option; by default its name is the field's, `--like-this`.

    The other arguments are those of `option`.
    """
    declared = partial(option, help=help, panel=panel, complete=complete, **settings)
    return field(default=default, metadata={"names": names, "option": declared})


def _completion(complete: Callable[[], Iterable[str | tuple[str, str]]]) -> Callable[[str], Any]:
    def values(incomplete: str) -> list[str | tuple[str, str]]:  # noqa: ARG001 — Typer filters
        return [each if isinstance(each, str) else _brief(*each) for each in complete()]

    return values


def _brief(value: str, explanation: str) -> tuple[str, str]:
    """A value with a short explanation, so that Typer does not wrap it: each line is a value."""
    cut = explanation if len(explanation) <= _BRIEF else f"{explanation[: _BRIEF - 1].rstrip()}…"
    return value, cut


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--help`, and an option for each field of the groups among its parameters.

    Typer sees one flat signature; the command gets its groups, made and checked.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    signature = inspect.signature(command).parameters
    own = [each.name for kind in groups.values() for each in fields(kind)]
    tables = _tables(groups.values(), {"help", *signature, *own})

    @wraps(command)
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


Tables = dict[tuple[type, str], tuple[str, dict[str, Option]]]
"""The panel and the options of each group and field that is filled from a table."""


def _tables(groups: Iterable[type], taken: set[str]) -> Tables:
    """The options from tables of all groups; `taken` are the command's own."""
    found: Tables = {}
    for group in groups:
        for name, hint in get_type_hints(group, include_extras=True).items():
            for mark in getattr(hint, "__metadata__", ()):
                if isinstance(mark, TableOptions):
                    found[group, name] = mark.panel, mark.free(taken)
    return found


def _make(group: Any, tables: Tables, values: dict[str, Any]) -> Any:
    """Make a group from its part of the values of all options."""
    made = {}
    for each in fields(group):
        if (group, each.name) in tables:
            given = {name: values.pop(name) for name in tables[group, each.name][1]}
            made[each.name] = {n: value for n, value in given.items() if value is not None}
        else:
            made[each.name] = values.pop(each.name)
    return group(**made)


def _parameters(group: type, tables: Tables) -> list[inspect.Parameter]:
    """A parameter for each field; a group's own come before those of the groups it extends."""
    hints = get_type_hints(group, include_extras=True)
    names = [name for kind in group.__mro__ for name in inspect.get_annotations(kind)]
    found = []
    for each in sorted(fields(group), key=lambda each: names.index(each.name)):
        if (group, each.name) in tables:
            panel, options = tables[group, each.name]
            found += [as_parameter(entry, panel) for entry in options.values()]
            continue
        hint = hints[each.name]
        if "option" in each.metadata:
            flag = each.metadata["names"] or f"--{each.name.replace('_', '-')}"
            hint = Annotated[hint, each.metadata["option"](flag)]
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(each.name, kind, default=each.default, annotation=hint))
    return found
