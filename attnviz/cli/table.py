"""Makes the tables of statistics."""

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnviz.cli import console
from attnviz.output.record_parts import QueryInfo, TargetInfo
from attnviz.output.records import MapInfo, Record
from attnviz.registry import TableEntry
from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS

_ALL: dict[str, tuple[TableEntry, str]]
_ALL = {name: (entry, entry.short or name) for name, entry in STATISTICS.items()}
_ALL |= {f"map_{name}": (each, each.short) for name, each in MAP_NUMBERS.items() if each.short}
COLUMNS = {name: short for name, (entry, short) in _ALL.items() if not entry.package}
ADDED_COLUMNS = {name: short for name, (entry, short) in _ALL.items() if entry.package}
_OF_ROWS = {"image_mass": "image", "text_mass": "text", "image_sink_mass": "image sinks"}
"""Headings of the shares of a word's row."""
_IN_SOUND = ("time", "frequency", "time0", "frequency0", "time1", "frequency1")
MORE_COLUMNS = {name: entry.short or name for name, entry in MORE.items()}
"""Headings of the columns, by the names of the numbers. Numbers that other packages or
`--stats all` add have tables of their own."""


def stats_tables(record: Record, ending: str = "") -> list[Table]:
    """Maps as rows; ▲ and ▼ mark the largest and smallest value of a column.

    Further statistics have tables of their own. The title ends with `ending`.
    """
    if record.text is not None and record.localized:
        return word_tables(record, f"{_title(record)}{ending}", _caption(record))
    rows, places = record.rows(), _places(record)
    headed = COLUMNS | _OF_ROWS
    known = [name for name in headed if any(row.get(name) is not None for row in rows)]
    marks = {name: _extremes([row[name] for row in rows]) for name in known}
    headings = [*places, *(headed[name] for name in known)]
    table = new_table(f"{_title(record)}{ending}", _caption(record), headings)
    of_sound = record.image.duration is not None
    table.add_column("peak s,Hz" if of_sound else "peak x,y", justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [_cell(row[name], marks[name]) for name in known]
        peak = peak_place(record.heads[i].map)
        table.add_row(*(column[i] for column in places.values()), *cells, peak)
    tables = [
        table,
        *_of_objects(record),
        *_localized(record),
        *_added(rows, places),
        *_of_heads(record),
    ]
    return [*tables, *_of_layers(record)]


def peak_place(numbers: MapInfo) -> str:
    """Where the heaviest cell of a map lies: in picture pixels, or in seconds and hertz."""
    if numbers.peak_time is None or numbers.peak_frequency is None:
        return f"{numbers.peak_x:.0f},{numbers.peak_y:.0f}"
    return f"{numbers.peak_time:.2f},{numbers.peak_frequency:.0f}"


def _localized(record: Record) -> list[Table]:
    """The table of the most localized heads, if these were requested."""
    if not record.localized:
        return []
    caption = "score: spatial entropy + 2 x border mass; the lower, the more localized"
    table = new_table(
        "the most localized heads", caption,
        ["layer", "head", "score", "spatial entropy", "border mass", "over uniform"],
    )  # fmt: skip
    for head in record.heads:
        numbers = (head.map.spatial_entropy, head.map.border_mass, head.map.border_ratio)
        score = None
        if head.head is not None and None not in numbers[:2]:
            score = (numbers[0] or 0) + 2 * (numbers[1] or 0)
        cells = [undefined() if each is None else Text(f"{each:.4f}") for each in (score, *numbers)]
        table.add_row(str(head.layer), "mean" if head.head is None else str(head.head), *cells)
    return [table]


def word_tables(record: Record, title: str, caption: str | None) -> list[Table]:
    """The words of an answer with the mean map of the localized heads, and these heads."""
    assert record.text is not None
    shares = [n for n in _OF_ROWS if any(getattr(h, n) is not None for h in record.heads)]
    words = new_table(title, caption, ["word", "probability", *(_OF_ROWS[n] for n in shares)])
    for heading in ("spatial entropy", "peak x,y"):
        words.add_column(heading, justify="right", no_wrap=True)
    marks = {n: _extremes([getattr(h, n) for h in record.heads if h.head is None]) for n in shares}
    for head in record.heads:
        if head.head is not None:
            continue
        query = head.query or record.query
        of_answer = query.kind == "word" and query.index is not None
        chance = record.text.words[query.index or 0].logprob if of_answer else None
        words.add_row(
            _query(query),
            undefined() if chance is None else Text(f"{math.exp(chance):.4f}"),
            *(_cell(getattr(head, name), marks[name]) for name in shares),
            _cell(head.map.spatial_entropy, None),
            peak_place(head.map),
        )
    heads = new_table(
        "the most localized heads",
        "the same for all words; score: the mean over words of spatial entropy + 2 x border mass",
        ["layer", "head", "score"],
    )
    for chosen in record.localized or ():
        if chosen.question == 0:
            score = undefined() if chosen.score is None else Text(f"{chosen.score:.4f}")
            heads.add_row(str(chosen.layer), str(chosen.head), score)
    return [words, heads]


def _of_objects(record: Record) -> list[Table]:
    """The table that compares maps with the objects that they look from, if they do."""
    queries = [head.query or record.query for head in record.heads]
    if all(query.kind != "object" for query in queries):
        return []
    table = new_table(
        "objects",
        "in object: share of the map within the mask, or the box; centre, peak: from the box's "
        "middle, in pixels",
        ["layer", "head", "from", "object", "score", "in object", "centre", "peak"],
    )
    for head, query in zip(record.heads, queries, strict=True):
        map_ = head.map
        numbers = (map_.object_mass, map_.object_distance, map_.object_peak_distance)
        cells = [undefined() if each is None else Text(f"{each:.4g}") for each in numbers]
        name = "all" if head.head is None else str(head.head)
        label = console.printable(query.label or "")
        score = "" if query.score is None else f"{query.score:.2f}"
        table.add_row(str(head.layer), name, _query(query, short=True), label, score, *cells)
    return [table]


def _added(rows: list[dict[str, Any]], places: dict[str, list[str]]) -> list[Table]:
    """Tables of the numbers that other packages add, one row per map."""
    known = [name for name in ADDED_COLUMNS if any(row[name] is not None for row in rows)]
    if not known:
        return []
    headings = [*places, *(ADDED_COLUMNS[name] for name in known)]
    packages = sorted({_ALL[name][0].package for name in known})
    table = new_table("numbers of other packages", ", ".join(packages), headings)
    marks = {name: _extremes([row[name] for row in rows]) for name in known}
    for i, row in enumerate(rows):
        cells = [_cell(row[name], marks[name]) for name in known]
        table.add_row(*(column[i] for column in places.values()), *cells)
    return [table]


def new_table(title: str, caption: str | None, headings: Sequence[str] = ()) -> Table:
    """A table with a column of numbers under each heading."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(title, style="bold"),
        caption=None if caption is None else escape(caption),
        title_justify="left",
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def undefined() -> Text:
    """The cell of a number that is not defined."""
    return Text("–", style="dim")


def _places(record: Record) -> dict[str, list[str]]:
    """The columns that identify the map of a row: layer, head, and question if it differs."""
    heads = record.heads
    merged = "mean" if record.localized else "all"
    columns = {
        "layer": [str(head.layer) for head in heads],
        "head": [merged if head.head is None else str(head.head) for head in heads],
        "part": [str(head.component or "") for head in heads],
        "share": ["" if head.share is None else f"{head.share:.1%}" for head in heads],
        "from": [_query(head.query or record.query, short=True) for head in heads],
        "for": [_target(head.target or record.target) or "" for head in heads],
    }
    always = ("layer", "head")
    return {n: each for n, each in columns.items() if n in always or len(set(each)) > 1}


def _of_heads(record: Record) -> list[Table]:
    """Tables of the numbers that `--stats all` adds for each head; each head appears once."""
    first = {(head.layer, head.head, _target(head.target)): head for head in record.heads}
    heads = [head.model_dump() for head in first.values()]
    known = [name for name in MORE_COLUMNS if any(head[name] is not None for head in heads)]
    if not known:
        return []
    table = new_table(
        "beside other heads of the layer",
        "cosine, J-S: of the weights with those of other heads, mean; sinks: a count",
        ["layer", "head", *(MORE_COLUMNS[name] for name in known)],
    )
    marks = {name: _extremes([head[name] for head in heads]) for name in known}
    for head in heads:
        cells = [
            Text(str(head[name])) if MORE[name].whole else _cell(head[name], marks[name])
            for name in known
        ]
        table.add_row(str(head["layer"]), str(head["head"]), *cells)
    return [table]


def _of_layers(record: Record) -> list[Table]:
    """Tables of the tokens that stand out in each layer, if there are any."""
    table = new_table(
        "tokens that stand out",
        "received: share of a head's attention, mean over queries; norm: of the token after the "
        "layer's block",
        ["layer", "head", "token", "x,y", "received", "norm"],
    )
    for layer in record.layers or ():
        for sink in layer.sinks:
            place = _token_place(sink.x, sink.y)
            name = f"{sink.token} ({sink.kind})"
            table.add_row(str(layer.layer), str(sink.head), name, place, f"{sink.received:.4f}", "")
        for token in layer.high_norm or ():
            place = _token_place(token.x, token.y)
            name = f"{token.token} ({token.kind})"
            table.add_row(str(layer.layer), "", name, place, "", f"{token.norm:.4g}")
    return [table] if table.row_count else []


def _token_place(x: float | None, y: float | None) -> str:
    return "" if x is None or y is None else f"{x:.0f},{y:.0f}"


def _extremes(values: list[float | None]) -> tuple[float, float] | None:
    """The smallest and the largest value as printed, if they differ."""
    known = [value for value in values if value is not None]
    if not known or _printed(min(known)) == _printed(max(known)):
        return None
    return min(known), max(known)


def _printed(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _cell(value: float | None, extremes: tuple[float, float] | None) -> Text:
    if value is None:
        return undefined()
    if extremes and value == extremes[1]:
        return Text(f"▲{_printed(value)}", style="bold green")
    if extremes and value == extremes[0]:
        return Text(f"▼{_printed(value)}", style="bold magenta")
    return Text(_printed(value))


def _title(record: Record) -> str:
    image, kind = record.image, record.tokens.kind
    grids = ", ".join(dict.fromkeys(f"{head.columns}x{head.rows}" for head in record.heads))
    queries = dict.fromkeys(_query(head.query or record.query) for head in record.heads)
    if record.text is not None and record.text.words:
        queries = {f"the words of “{console.printable(record.text.answer)}”": None}
    scored = dict.fromkeys(_target(head.target or record.target) for head in record.heads)
    of = "" if record.text is not None else ", ".join(filter(None, scored))
    return (
        f"{console.printable(image.path)}  {image.width}x{image.height}  {record.model.spec}  "
        f"{grids} {kind}  {record.method} from {', '.join(queries)}{f' for {of}' if of else ''}"
    )


def _query(info: QueryInfo, *, short: bool = False) -> str:
    """A query in words; a short one of an object leaves its label and score out."""
    query: dict[str, Any] = info.model_dump(exclude_none=True)
    if info.kind == "object":
        name = f"object:{info.index}"
        return name if short else console.printable(f"{info.label} {info.score:.2f} ({name})")
    numbers = [f"{value:g}" for key, value in query.items() if key[0] in "xy"]
    name = {"register": f"register{info.number}", "all": "all tokens"}.get(info.kind, info.kind)
    name = f"token:{info.token}" if info.kind == "token" else info.word or name
    place = ",".join(numbers) + ("" if info.time is None else f"@{info.time:g}")
    if {"frequency", "frequency0"} & query.keys():  # in a sound
        given = [name for name in _IN_SOUND if name in query]
        place = ",".join(f"{query[n]:.4g}{'s' if n[0] == 't' else 'Hz'}" for n in given)
    return console.printable(str(query.get("path") or place or name))


def _target(target: TargetInfo | None) -> str | None:
    """The target of a score and its value: the probability of a class, the cosine of a text."""
    if target is None or target.score is None:
        return None
    if target.kind == "class":
        named = target.label or f"class {target.index}"
        named += f" against {target.against}" if target.against else ""
        sure = "" if target.probability is None else f" ({target.probability:.1%})"
        return f"{console.printable(named)}{sure}"
    if target.kind == "word":  # which the query names
        return f"its logit ({target.score:.4g})"
    place = "" if target.query is None else _query(target.query)
    named = target.text or target.kind + (place and f":{place}")
    if target.kind == "object":
        named = place
    if target.kind == "region":
        of_class = "depth" if target.index is None else target.label or f"class {target.index}"
        named = of_class + (place and f" at {place}")
    named += f" against {target.against}" if target.against else ""
    return f"{console.printable(named)} ({target.score:.4g})"


def _caption(record: Record) -> str:
    worst = record.check.max_error
    error = "no number" if worst is None else f"{worst:.1e}"
    state = "verified" if record.check.verified else "NOT VERIFIED"
    caption = (
        f"check: {state}, the weights explain the model's output to {error}; "
        "entropy in nats, distance in input pixels"
    )
    if record.tiles is not None:
        tiles = record.tiles
        caption += (
            f"\njoined from {tiles.columns}x{tiles.rows} tiles of {tiles.side} pixels; numbers of "
            "heads are means over tiles"
        )
    if record.text is not None and record.text.image_layer is not None:
        masses = {each.layer: each.image_mass for each in record.text.layers}
        caption += (
            f"\nlayer {record.text.image_layer} looks at the picture most: "
            f"{masses[record.text.image_layer]:.4f} of its attention, mean over heads and words; "
            f"the mean of all layers is {sum(masses.values()) / len(masses):.4f}"
        )
    if record.preprocessing is None:
        return caption
    tokens = record.tokens
    size = f"{tokens.input_width}x{tokens.input_height}"
    return f"{caption}\ninput: {size} pixels, {tokens.fit}, {record.preprocessing}"
