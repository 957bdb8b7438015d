"""Makes the tables of an aggregate."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from attnviz.batch.aggregate import Aggregate
from attnviz.cli import console
from attnviz.cli.table import ADDED_COLUMNS, COLUMNS, MORE_COLUMNS
from attnviz.output.summary_records import AggregateRow, Spread


def aggregate_tables(found: Aggregate) -> list[Table]:
    """Two tables for each model, method and question: the main numbers of heads, and the others."""
    parts: dict[tuple[object, ...], list[AggregateRow]] = {}
    for row in found.rows:
        parts.setdefault((row.model, row.weights, row.method, row.question), []).append(row)
    return [
        _table(rows, names)
        for rows in parts.values()
        for names in (_measured(part, rows) for part in (COLUMNS, ADDED_COLUMNS, MORE_COLUMNS))
        if names
    ]


def _measured(columns: dict[str, str], rows: Sequence[AggregateRow]) -> dict[str, str]:
    known = {name for row in rows for name, spread in row.statistics.items() if spread is not None}
    return {name: heading for name, heading in columns.items() if name in known}


def _table(rows: Sequence[AggregateRow], columns: dict[str, str]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=_title(rows),
        caption="mean ± standard deviation of pictures; entropy in nats, distance in input pixels",
        title_justify="left",
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in ("layer", "head", *columns.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    for before, row in zip([rows[0], *rows], rows, strict=False):
        if before.layer != row.layer:
            table.add_section()
        head = "all" if row.head is None else str(row.head)
        cells = [_cell(row.statistics.get(name)) for name in columns]
        table.add_row(str(row.layer), head, *cells)
    return table


def _title(rows: Sequence[AggregateRow]) -> Text:
    row, count = rows[0], max(row.pictures for row in rows)
    question = f"  question {row.question + 1}" if row.question else ""
    model = f"{console.printable(row.model)}  weights: {console.printable(row.weights)}"
    pictures = f"{count} picture{'s' * (count != 1)}"
    return Text(f"{model}  {row.method}{question}  {pictures}", style="bold")


def _cell(spread: Spread | None) -> Text:
    if spread is None:
        return Text("–", style="dim")
    digits = _digits(max(abs(spread.mean), spread.deviation))
    mean, deviation = (_number(value, digits) for value in (spread.mean, spread.deviation))
    return Text(mean).append(f"±{deviation}", style="dim")


def _digits(size: float) -> int:
    """The number of decimals: about three significant digits, so that 100 columns are enough."""
    return 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3


def _number(value: float, digits: int) -> str:
    """A number without the 0 before the decimal point."""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text
