"""`attnviz schema`: the JSON schemas of the records, from the classes that write them."""

import json as _json
from typing import Annotated, Any

import typer

from attnviz.cli.options import Json, with_groups
from attnviz.errors import unknown
from attnviz.registry import load

RECORDS = {
    "record": "attnviz.output.records:Record",
    "compare": "attnviz.comparison.comparison_record:ComparisonRecord",
    "evaluate": "attnviz.evaluation.rows:EvaluationRow",
    "aggregate": "attnviz.batch.aggregate_record:AggregateRow",
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
