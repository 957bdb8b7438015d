"""Makes the tables of an evaluation."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from attnviz.cli import console
from attnviz.evaluation import GROUPS, MASKS, METRICS, RANDOM
from attnviz.output.summary_records import EvaluationRow, Interval

_CAPTIONS = {
    "masks": "of tokens; jac. area: as many of them as the objects have",
    "perturbation": "deletion, positive: lower is better; positive and negative are of 90",
}


def score_tables(rows: Sequence[EvaluationRow]) -> list[Table]:
    """A table for each model and group of metrics; ▲ marks the best of a column."""
    models = dict.fromkeys(row.model for row in rows)
    return [
        _table([row for row in rows if row.model == model], names, group)
        for model in models
        for group in GROUPS
        if (names := [name for name in rows[0].metrics if METRICS[name].group == group])
    ]


def _table(rows: Sequence[EvaluationRow], names: Sequence[str], group: str) -> Table:
    rows = [row for row in rows if any(row.metrics[name] for name in names)]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=_title(rows[0], group),
        caption=f"mean ± half of the bootstrap 95 % interval, {_CAPTIONS[group]}",
        title_justify="left",
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("map", no_wrap=True)
    for heading in ("layer", "head", *(METRICS[name].short or name for name in names)):
        table.add_column(heading, justify="right", no_wrap=True)
    best = {name: _best(rows, name) for name in names}
    several = len({row.method for row in rows if row.method}) > 1
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and _part(before, group) != _part(row, group):
            table.add_section()
        cells = [_cell(row.metrics[name], best[name], METRICS[name].full) for name in names]
        table.add_row(_name(row, several=several), _text(row.layer), _text(row.head), *cells)
    return table


def _title(row: EvaluationRow, group: str) -> Text:
    count = f"{row.pictures} picture{'s' * (row.pictures != 1)}"
    model = f"{console.printable(row.model)}  weights: {console.printable(row.weights)}"
    return Text(f"{model}  {count}  {group}", style="bold")


def _part(row: EvaluationRow, group: str) -> tuple[object, ...]:
    """A key of rows that belong together: heads of a layer, layers of a method, baselines."""
    layer = row.layer if group == MASKS else None
    return (row.baseline, row.method, layer) if row.method else ()


def _name(row: EvaluationRow, *, several: bool) -> str:
    if row.baseline == RANDOM and several:
        return f"{row.method}, random weights"
    return row.baseline or str(row.method)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _best(rows: Sequence[EvaluationRow], name: str) -> float | None:
    """The best mean of a column; None if all are equal."""
    means = [interval.mean for row in rows if (interval := row.metrics[name]) is not None]
    if not means or min(means) == max(means):
        return None
    return max(means) if METRICS[name].higher else min(means)


def _cell(value: Interval | None, best: float | None, full: float) -> Text:
    if value is None:
        return Text("–", style="dim")
    digits = 1 if full > 1 else 3
    half = (value.high - value.low) / 2
    text = Text(f"{value.mean:.{digits}f}")
    if value.mean == best:
        text = Text(f"▲{value.mean:.{digits}f}", style="bold green")
    return text.append(f" ±{half:.{digits}f}".replace("±0.", "±."), style="dim")
