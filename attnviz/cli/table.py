"""The table of statistics."""

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnviz.cli import console
from attnviz.records import QueryInfo, Record, TargetInfo

_COLUMNS = {
    "entropy": "entropy",
    "entropy_ratio": "ratio",
    "confidence": "confid.",
    "distance_px": "dist. px",
    "prefix_mass": "prefix",
    "sink_mass": "sink",
    "map_maximum": "map max",
    "map_area60": "area60",
}


def stats_table(record: Record) -> Table:
    """Heads as rows; ▲ and ▼ mark the largest and smallest value of a column."""
    rows = record.rows()
    columns = {
        name: heading
        for name, heading in _COLUMNS.items()
        if name[:4] == "map_" or any(row[name] is not None for row in rows)
    }
    table = Table(
        box=box.SIMPLE_HEAD,
        title=_title(record),
        caption=_caption(record),
        title_justify="left",
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in ("layer", "head", *columns.values(), "peak x,y"):
        table.add_column(heading, justify="right", no_wrap=True)
    marks = {name: _extremes([row[name] for row in rows]) for name in columns}
    for row in rows:
        cells = [_cell(row[name], marks[name]) for name in columns]
        peak = f"{row['map_peak_x']:.0f},{row['map_peak_y']:.0f}"
        head = "all" if row["head"] is None else str(row["head"])
        table.add_row(str(row["layer"]), head, *cells, peak)
    return table


def _extremes(values: list[float | None]) -> tuple[float, float] | None:
    """Smallest and largest value as printed, if they differ."""
    known = [value for value in values if value is not None]
    if not known or f"{min(known):.4f}" == f"{max(known):.4f}":
        return None
    return min(known), max(known)


def _cell(value: float | None, extremes: tuple[float, float] | None) -> Text:
    if value is None:
        return Text("–", style="dim")
    if extremes and value == extremes[1]:
        return Text(f"▲{value:.4f}", style="bold green")
    if extremes and value == extremes[0]:
        return Text(f"▼{value:.4f}", style="bold magenta")
    return Text(f"{value:.4f}")


def _title(record: Record) -> Text:
    image, kind = record.image, record.tokens.kind
    grids = ", ".join(dict.fromkeys(f"{head.columns}x{head.rows}" for head in record.heads))
    asked = dict.fromkeys(_query(head.query or record.query) for head in record.heads)
    scored = dict.fromkeys(_target(head.target or record.target) for head in record.heads)
    of = "".join(f" for {target}" for target in [", ".join(filter(None, scored))] if target)
    return Text(
        f"{console.printable(image.path)}  {image.width}x{image.height}  {record.model.spec}  "
        f"{grids} {kind}  {record.method} from {', '.join(asked)}{of}",
        style="bold",
    )


def _query(asked: QueryInfo) -> str:
    query: dict[str, Any] = asked.model_dump(exclude_none=True)
    numbers = [f"{value:g}" for key, value in query.items() if key[0] in "xy"]
    said = {"register": f"register{asked.number}", "all": "all tokens"}.get(asked.kind, asked.kind)
    return str(query.get("path") or ",".join(numbers) or said)


def _target(target: TargetInfo | None) -> str | None:
    """What a score is of, and its value: a class has its probability, a text the cosine."""
    if target is None or target.score is None:
        return None
    if target.kind == "class":
        named = target.label or f"class {target.index}"
        sure = "" if target.probability is None else f" ({target.probability:.1%})"
        return f"{console.printable(named)}{sure}"
    where = "" if target.query is None else f":{_query(target.query)}"
    return f"{console.printable(target.text or target.kind + where)} ({target.score:.4g})"


def _caption(record: Record) -> str:
    worst = record.check.max_error
    error = "no number" if worst is None else f"{worst:.1e}"
    state = "verified" if record.check.verified else "NOT VERIFIED"
    return escape(
        f"check: {state}, the weights explain the model's output to {error}; "
        "entropy in nats, distance in input pixels"
    )
