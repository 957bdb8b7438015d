"""Makes the tables of a comparison."""

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from attnviz.cli import console
from attnviz.comparison import AGREEMENTS
from attnviz.comparison.comparison_record import ComparisonRecord, PairInfo, SideInfo

_AGREEMENTS = {name: entry.short or name for name, entry in AGREEMENTS.items()}
_RHO = "ρ: rank correlation of the maps (Spearman), 1 to −1"


def pair_tables(record: ComparisonRecord) -> list[Table]:
    """A table that compares each side with the first; with more than two, also one of all pairs."""
    tables = [_sides(record)]
    return [*tables, _matrix(record)] if len(record.sides) > 2 else tables


def _sides(record: ComparisonRecord) -> Table:
    """One row per side: its name, and how alike it is to the first."""
    to_first = {pair.second: pair for pair in record.pairs if pair.first == 0}
    table = _table(
        _title(record),
        f"{_RHO}; r: correlation of their weights; jaccard60: overlap of where 60 % of their mass "
        f"lies; each with side 0, over the cells that both saw\n{_check(record)}",
    )
    table.add_column("", justify="right")
    table.add_column("side", overflow="fold")
    for heading in ("grid", "area60", "peak x,y", *_AGREEMENTS.values()):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("cells", justify="right", no_wrap=True)
    for number, side in enumerate(record.sides):
        row = [f"{side.columns}x{side.rows}", f"{side.map.area60:.4f}"]
        row += [f"{side.map.peak_x:.0f},{side.map.peak_y:.0f}"]
        table.add_row(
            str(number), console.printable(side.name), *row, *_numbers(to_first.get(number))
        )
    return table


def _numbers(pair: PairInfo | None) -> list[str | Text]:
    """How alike two sides are; empty for the first side itself."""
    if pair is None:
        return [""] * (len(AGREEMENTS) + 1)
    return [*(_number(getattr(pair, name)) for name in AGREEMENTS), str(pair.cells)]


def _matrix(record: ComparisonRecord) -> Table:
    """A table of ρ for all pairs of sides."""
    known = {(pair.first, pair.second): pair.spearman for pair in record.pairs}
    table = _table(Text("ρ of all pairs", style="bold"), None)
    for heading in ("", *map(str, range(len(record.sides)))):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in range(len(record.sides)):
        cells = [
            Text("·", style="dim") if row == column else _number(known[_pair(row, column)], 2)
            for column in range(len(record.sides))
        ]
        table.add_row(str(row), *cells)
    return table


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _number(value: float | None, digits: int = 3) -> Text:
    if value is None:
        return Text("–", style="dim")
    rounded = round(value, digits) + 0.0  # without the sign of −0
    return Text(f"{rounded:.{digits}f}".replace("-", "−"))


def _table(title: Text, caption: str | None) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        caption=None if caption is None else escape(caption),
        title_justify="left",
        caption_justify="left",
        collapse_padding=True,
        pad_edge=False,
    )


def _title(record: ComparisonRecord) -> Text:
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
    path = console.printable(image.path)
    return Text(f"{path}  {image.width}x{image.height}{shared}", style="bold")


def _heads(side: SideInfo) -> str:
    if side.heads is not None:
        return f"mean of {len(side.heads)} heads"
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
