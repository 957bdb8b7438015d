"""Makes the tables of aggregates, comparisons and evaluations."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from attnviz.batch.aggregate import Aggregate
from attnviz.cli import console
from attnviz.cli.table import (
    ADDED_COLUMNS,
    COLUMNS,
    MORE_COLUMNS,
    new_table,
    peak_place,
    undefined,
)
from attnviz.comparison import AGREEMENTS
from attnviz.comparison.comparison_record import ComparisonRecord, PairInfo, SideInfo
from attnviz.evaluation import GROUPS, MASKS, METRICS, ORACLE, RANDOM
from attnviz.output.schema import AggregateRow, EvaluationRow, Interval, Spread

_AGREEMENTS = {name: entry.short or name for name, entry in AGREEMENTS.items()}
_RHO = "ρ: rank correlation of the maps (Spearman), 1 to −1"
_GROUPS = {
    "masks": "of tokens; jac. area: as many of them as the objects have",
    "sensitivity": "max, avg: change of the map by small noise; lower is steadier",
    "randomisation": "rank, ssim: likeness to the map while weights are redrawn; lower is better",
    "perturbation": "deletion, positive: lower is better; positive and negative are of 90",
}


def _model(row: AggregateRow | EvaluationRow) -> str:
    return f"{console.printable(row.model)}  weights: {console.printable(row.weights)}"


def _count(pictures: int) -> str:
    return f"{pictures} picture{'s' * (pictures != 1)}"


def aggregate_tables(summary: Aggregate) -> list[Table]:
    """Two tables for each model, method and question: the main numbers of heads, and the others."""
    parts: dict[tuple[object, ...], list[AggregateRow]] = {}
    for row in summary.rows:
        parts.setdefault((row.model, row.weights, row.method, row.question), []).append(row)
    return [
        _spreads(rows, names)
        for rows in parts.values()
        for names in (_measured(part, rows) for part in (COLUMNS, ADDED_COLUMNS, MORE_COLUMNS))
        if names
    ]


def _measured(columns: dict[str, str], rows: Sequence[AggregateRow]) -> dict[str, str]:
    known = {name for row in rows for name, spread in row.statistics.items() if spread is not None}
    return {name: heading for name, heading in columns.items() if name in known}


def _spreads(rows: Sequence[AggregateRow], columns: dict[str, str]) -> Table:
    first, pictures = rows[0], max(row.pictures for row in rows)
    question = f"  question {first.question + 1}" if first.question else ""
    table = new_table(
        f"{_model(first)}  {first.method}{question}  {_count(pictures)}",
        "mean ± standard deviation of pictures; entropy in nats, distance in input pixels",
        ["layer", "head", *columns.values()],
    )
    for before, row in zip([first, *rows], rows, strict=False):
        if before.layer != row.layer:
            table.add_section()
        cells = [_spread(row.statistics.get(name)) for name in columns]
        table.add_row(*_place(row), *cells)
    return table


def _place(row: AggregateRow) -> tuple[str, str]:
    """The layer and the head of a row in words; of localized heads their rank."""
    if row.rank is not None:
        return "localized", f"no. {row.rank}" if row.rank else "mean"
    return str(row.layer), "all" if row.head is None else str(row.head)


def _spread(spread: Spread | None) -> Text:
    """A mean and its deviation, with about three significant digits: 100 columns are enough."""
    if spread is None:
        return undefined()
    size = max(abs(spread.mean), spread.deviation)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    mean, deviation = (_short(f"{value:.{digits}f}") for value in (spread.mean, spread.deviation))
    return Text(mean).append(f"±{deviation}", style="dim")


def _short(number: str) -> str:
    """A number without the 0 before the decimal point."""
    return number[1:] if number.startswith("0.") else number


def pair_tables(record: ComparisonRecord) -> list[Table]:
    """A table that compares each side with the first; with more than two, also one of all pairs."""
    tables = [_sides(record)]
    return [*tables, _matrix(record)] if len(record.sides) > 2 else tables


def _sides(record: ComparisonRecord) -> Table:
    """One row per side: its name, and how alike it is to the first."""
    to_first = {pair.second: pair for pair in record.pairs if pair.first == 0}
    table = new_table(
        _shared(record),
        f"{_RHO}; r: correlation of their weights; jaccard60: overlap of where 60 % of their mass "
        f"lies; each with side 0, over the cells that both saw\n{_check(record)}",
    )
    table.add_column("", justify="right")
    table.add_column("side", overflow="fold")
    peak = "peak x,y" if record.image.duration is None else "peak s,Hz"
    for heading in ("grid", "area60", peak, *_AGREEMENTS.values(), "cells"):
        table.add_column(heading, justify="right", no_wrap=True)
    for number, side in enumerate(record.sides):
        row = [f"{side.columns}x{side.rows}", f"{side.map.area60:.4f}"]
        row += [peak_place(side.map)]
        table.add_row(
            str(number), console.printable(side.name), *row, *_agreements(to_first.get(number))
        )
    return table


def _agreements(pair: PairInfo | None) -> list[str | Text]:
    """How alike two sides are; empty for the first side itself."""
    if pair is None:
        return [""] * (len(AGREEMENTS) + 1)
    return [*(_agreement(getattr(pair, name)) for name in AGREEMENTS), str(pair.cells)]


def _matrix(record: ComparisonRecord) -> Table:
    """A table of ρ for all pairs of sides."""
    known = {(pair.first, pair.second): pair.spearman for pair in record.pairs}
    numbers = range(len(record.sides))
    table = new_table("ρ of all pairs", None, ["", *map(str, numbers)])
    for row in numbers:
        cells = [
            Text("·", style="dim")
            if row == column
            else _agreement(known[min(row, column), max(row, column)], 2)
            for column in numbers
        ]
        table.add_row(str(row), *cells)
    return table


def _agreement(value: float | None, digits: int = 3) -> Text:
    if value is None:
        return undefined()
    rounded = round(value, digits) + 0.0  # without the sign of −0
    return Text(f"{rounded:.{digits}f}".replace("-", "−"))


def _shared(record: ComparisonRecord) -> str:
    """The picture, and the model, method and layer if all sides share them."""
    image = record.image
    sides = record.sides
    kinds = [
        {side.model.spec for side in sides},
        {side.method for side in sides},
        {f"layer {side.layer}" for side in sides},
        {_heads(side) for side in sides},
    ]
    shared = "".join(f"  {text}" for kind in kinds if len(kind) == 1 for text in kind)
    return f"{console.printable(image.path)}  {image.width}x{image.height}{shared}"


def _heads(side: SideInfo) -> str:
    if side.heads is not None:
        return f"mean of {len(side.heads)} heads"
    if side.head == "localized":
        return "localized heads"
    return "merged heads" if side.head is None else f"head {side.head}"


def _check(record: ComparisonRecord) -> str:
    """A line that says whether the weights of every side give its model's output."""
    bad = [str(number) for number, side in enumerate(record.sides) if not side.check.verified]
    if bad:
        return (
            f"check: NOT VERIFIED, the weights of side {', '.join(bad)} do not explain the output"
        )
    worst = max(side.check.max_error or 0 for side in record.sides)
    return f"check: verified, the weights explain the models' outputs to {worst:.1e}"


def score_tables(rows: Sequence[EvaluationRow]) -> list[Table]:
    """A table for each model and group of metrics; ▲ marks the best of a column."""
    models = dict.fromkeys(row.model for row in rows)
    return [
        _scores([row for row in rows if row.model == model], names, group)
        for model in models
        for group in GROUPS
        if (names := [name for name in rows[0].metrics if METRICS[name].group == group])
    ]


def _scores(rows: Sequence[EvaluationRow], names: Sequence[str], group: str) -> Table:
    rows = [row for row in rows if any(row.metrics[name] for name in names)]
    oracle = any(row.head == ORACLE for row in rows)
    table = new_table(
        f"{_model(rows[0])}  {_count(rows[0].pictures)}  {group}",
        f"mean ± half of the bootstrap 95 % interval, {_GROUPS[group]}"
        + "\noracle: each picture's best head by its mask, a bound and no choice" * oracle,
    )
    table.add_column("map", no_wrap=True)
    for heading in ("layer", "head", *(METRICS[name].short or name for name in names)):
        table.add_column(heading, justify="right", no_wrap=True)
    best = {name: _best(rows, name) for name in names}
    by_layer = group == MASKS and any(isinstance(row.head, int) for row in rows)
    several = len({row.method for row in rows if row.method}) > 1
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and _part(before, by_layer) != _part(row, by_layer):
            table.add_section()
        places = ["" if place is None else str(place) for place in (row.layer, row.head)]
        of_row = dict.fromkeys(names) if row.head == ORACLE else best
        cells = [_score(row.metrics[name], of_row[name], METRICS[name].full) for name in names]
        table.add_row(_name(row, several=several), *places, *cells)
    return table


def _part(row: EvaluationRow, by_layer: bool) -> tuple[object, ...]:
    """A key of rows that belong together: heads of a layer, maps of a method, baselines."""
    layer = row.layer if by_layer else None
    return (row.baseline, row.method, layer) if row.method else ()


def _name(row: EvaluationRow, *, several: bool) -> str:
    if row.baseline == RANDOM and several:
        return f"{row.method}, random"
    return row.baseline or str(row.method)


def _best(rows: Sequence[EvaluationRow], name: str) -> float | None:
    """The best mean of a column, without the oracle, which sees masks; None if all are equal."""
    honest = [row for row in rows if row.head != ORACLE]
    means = [interval.mean for row in honest if (interval := row.metrics[name]) is not None]
    if not means or min(means) == max(means):
        return None
    return max(means) if METRICS[name].higher else min(means)


def _score(value: Interval | None, best: float | None, full: float) -> Text:
    if value is None:
        return undefined()
    digits = 1 if full > 1 else 3
    half = (value.high - value.low) / 2
    text = Text(f"{value.mean:.{digits}f}")
    if value.mean == best:
        text = Text(f"▲{value.mean:.{digits}f}", style="bold green")
    return text.append(f" ±{half:.{digits}f}".replace("±0.", "±."), style="dim")
