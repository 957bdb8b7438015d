"""`attnviz models`, `methods`, `statistics` and `schema`: entries of tables, schemas of records."""

import json as _json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from attnviz.cli.options.groups import with_groups
from attnviz.cli.options.results import Json
from attnviz.errors import unknown
from attnviz.methods import METHODS
from attnviz.models import SOURCES
from attnviz.registry import TableEntry, load
from attnviz.statistics import MORE, STATISTICS

_HEADINGS = ("name", "family", "layers x heads", "patch", "reg.", "licence", "MB", "cached")


@with_groups
def models(json: Json = False) -> None:
    """List what `--model` takes.

    Sources come first, then short names with what is known of them.
    """
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — not for `--help`

    _print(SOURCES, json)
    facts = {name: alias.facts() for name, alias in ALIASES.items()}
    if json:
        for name, fact in facts.items():
            typer.echo(_json.dumps({"name": name, **fact}, ensure_ascii=False))
        return
    rows = [_HEADINGS, *(_row(name, fact) for name, fact in facts.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    typer.echo("\nShort names, with or without --random-weights:\n")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


@with_groups
def methods(json: Json = False) -> None:
    """List what `--method` takes, with references."""
    _print(METHODS, json)


@with_groups
def statistics(json: Json = False) -> None:
    """List the numbers of each head, with references.

    Those that only `--stats all` gives come last.
    """
    _print({**STATISTICS, **MORE}, json)


def _print(entries: Mapping[str, TableEntry], json: bool) -> None:
    width = max(len(name) for name in entries)
    for name, entry in entries.items():
        if json:
            line = {"name": name, "summary": entry.summary, "reference": entry.reference}
            if entry.package:
                line["package"] = entry.package
            typer.echo(_json.dumps(line, ensure_ascii=False))
        else:
            by = f" ({entry.package})" if entry.package else ""
            typer.echo(f"{name:<{width}}  {entry.summary}\n{'':<{width}}  {entry.reference}{by}")


def _row(name: str, fact: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a short name; the stages of a pyramid are joined by dashes."""
    layers, heads = (
        "-".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (fact["layers"], fact["heads"])
    )
    return (
        name,
        fact["family"],
        f"{layers} x {heads}",
        str(fact["patch"]),
        str(fact["registers"] or "-"),
        fact["licence"],
        str(fact["megabytes"]),
        "yes" if fact["cached"] else "no",
    )


RECORDS = {
    "record": "attnviz.output.records:Record",
    "compare": "attnviz.comparison.comparison_record:ComparisonRecord",
    "evaluate": "attnviz.output.schema:EvaluationRow",
    "aggregate": "attnviz.output.schema:AggregateRow",
}
"""The class of each record: of a picture, a comparison, an evaluation, a whole batch."""

Which = Annotated[
    str,
    typer.Argument(
        metavar="[RECORD]",
        autocompletion=lambda incomplete: list(RECORDS),  # noqa: ARG005 — Typer filters
        help="record (of show, stats, batch and video), compare, evaluate or aggregate.",
    ),
]


@with_groups
def schema(which: Which = "record", json: Json = False) -> None:
    """Print the JSON schema of a record.

    With --json it is one line.
    """
    if which not in RECORDS:
        raise unknown("record", which, RECORDS, see="attnviz schema --help")
    typer.echo(_json.dumps(schema_of(which), ensure_ascii=False, indent=None if json else 2))


def schema_of(which: str) -> dict[str, Any]:
    """The JSON schema of a record in the form that `--json` prints.

    >>> schema_of("record")["properties"]["schema"]["const"]
    'attnviz/1'
    """
    found: dict[str, Any] = load(RECORDS[which]).model_json_schema()
    properties: dict[str, Any] = found["properties"]
    # The field is `schema_` in Python, since pydantic's classes have a `schema` of their own.
    found["properties"] = {"schema": {**properties.pop("schema_"), "title": "Schema"}, **properties}
    found["required"] = ["schema", *found["required"]]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
