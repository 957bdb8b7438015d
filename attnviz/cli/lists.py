"""`attnviz models` and `attnviz methods`: the tables, as they are."""

import json as _json
from typing import Annotated

import typer

from attnviz.catalog import Entry
from attnviz.cli.options import with_groups
from attnviz.methods import METHODS
from attnviz.models import SOURCES

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@with_groups
def models(json: Json = False) -> None:
    """What `--model` takes, with a line and a reference each."""
    _print(SOURCES, json)


@with_groups
def methods(json: Json = False) -> None:
    """What `--method` takes, with a line and a reference each."""
    _print(METHODS, json)


def _print(entries: dict[str, Entry], json: bool) -> None:
    width = max(len(name) for name in entries)
    for name, entry in entries.items():
        if json:
            line = {"name": name, "summary": entry.summary, "reference": entry.reference}
            typer.echo(_json.dumps(line, ensure_ascii=False))
        else:
            typer.echo(f"{name:<{width}}  {entry.summary}\n{'':<{width}}  {entry.reference}")
