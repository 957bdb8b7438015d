"""Summarises the records of a batch: the distribution of each head's numbers over the pictures."""

import math
from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.batch.finalizers import STATS, each
from attnviz.batch.matrix import LOCALIZED, NUMBERS, by_question, numbers, place_of
from attnviz.batch.sketch import EXACT, Sketch, Summary
from attnviz.output import encoding, whole_files
from attnviz.output.schema import AggregateRow, Spread

NAME = "aggregate"


Place = tuple[str, str, str, int, int, int | None]
"""Model, weights, method, question, layer and head; see `matrix.place_of`."""


@dataclass(frozen=True)
class Aggregate:
    """A summary of records: rows by model, method, question, layer and head.

    Attributes:
        rows: one row per head.
        pictures: how many records were read.
    """

    rows: tuple[AggregateRow, ...]
    pictures: int

    @property
    def exact(self) -> bool:
        """Whether quantiles are exact; otherwise their relative error is at most 2⁻¹⁰."""
        return all(row.pictures <= EXACT for row in self.rows)


def aggregate(stats: Path) -> Aggregate:
    """Means, deviations and quantiles of every number over the records of a file.

    The records are read one after the other; memory does not grow with their number. The formulas
    are in docs/formulas.md, under Aggregates.

    >>> aggregate(Path("OUT/stats.jsonl")).rows[0].statistics["entropy"].mean > 0
    True

    Args:
        stats: `stats.jsonl` of a batch.

    Raises:
        OutputError: the file cannot be read, or one of its lines is not a record.
    """
    sketches: dict[Place, Sketch] = defaultdict(lambda: Sketch(len(NUMBERS)))
    pictures = 0
    for found in each(stats, _found):
        pictures += 1
        for place, values in found:
            sketches[place].add(values)
    return Aggregate(_rows(sketches), pictures)


def _found(record: dict[str, Any]) -> list[tuple[Place, "array[float]"]]:
    """The numbers of one record, each with its place."""
    run = record["model"]["spec"], record["model"]["weights"], record["method"]
    return [
        ((*run, question, *place_of(head)), numbers(head))
        for question, head in by_question(record["heads"])
    ]


def write_aggregate(
    out: Path, stats: Path | None = None, manifest: Path | None = None
) -> list[Path]:
    """Write `aggregate.jsonl`, `aggregate.csv` and `aggregate.png` of a batch.

    Without records no file is written.

    Args:
        out: the folder of the batch.
        stats: the records; by default `stats.jsonl` in the folder.
        manifest: not used; all finalizers take this argument.

    Raises:
        OutputError: the records cannot be read, or a file cannot be written.
    """
    del manifest
    from attnviz.batch.aggregate_plot import plot  # noqa: PLC0415 — matplotlib takes a second

    rows = aggregate(stats or out / STATS).rows
    if not rows:
        return []
    lines = "".join(f"{encoding.as_json(row.data())}\n" for row in rows)
    table = encoding.as_csv([row.row() for row in rows])
    return [
        whole_files.write_whole(out / f"{NAME}.jsonl", lines.encode()),
        whole_files.write_whole(out / f"{NAME}.csv", table.encode()),
        whole_files.write_whole(out / f"{NAME}.png", plot(rows)),
    ]


def _rows(sketches: dict[Place, Sketch]) -> tuple[AggregateRow, ...]:
    """A row for each place; all have the numbers that at least one place has."""
    found = {place: sketch.summaries() for place, sketch in sorted(sketches.items(), key=_order)}
    defined = [i for i in range(len(NUMBERS)) if any(of[i].count for of in found.values())]
    return tuple(
        AggregateRow.model_validate(
            {
                **_named(place),
                "pictures": sketches[place].rows,
                "statistics": {NUMBERS[i]: _spread(summaries[i]) for i in defined},
            }
        )
        for place, summaries in found.items()
    )  # fmt: skip


def _named(place: Place) -> dict[str, Any]:
    """The fields of a row that name its place."""
    model, weights, method, question, layer, head = place
    of_head = {"layer": layer, "head": head, "rank": None}
    if layer == LOCALIZED:
        of_head = {"layer": None, "head": None, "rank": head}
    return {"model": model, "weights": weights, "method": method, "question": question} | of_head


def _order(item: tuple[Place, Sketch]) -> tuple[object, ...]:
    *before, head = item[0]
    return (*before, math.inf if head is None else head)


def _spread(summary: Summary) -> Spread | None:
    if not summary.count:
        return None
    q05, q25, q50, q75, q95 = summary.quantiles
    return Spread(
        mean=summary.mean, deviation=summary.deviation,
        q05=q05, q25=q25, q50=q50, q75=q75, q95=q95, missing=summary.missing,
    )  # fmt: skip
