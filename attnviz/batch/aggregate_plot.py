"""Plots an aggregate: how far and how widely heads look, layer by layer."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnviz.output.schema import AggregateRow, Spread

_HEADS = {
    "distance_px": ("mean attention distance", "input pixels"),
    "entropy": ("entropy of a row", "nats"),
}
_MAPS = {
    "map_area60": ("area that holds 60 % of the map", "share of the tokens"),
    "map_entropy": ("entropy of the map", "nats"),
}
_POINT, _LINE = "#0072b2", "#d55e00"  # Okabe & Ito 2008
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_WIDTH, _HEIGHT = 4.6, 3.4  # size of a panel in inches
_SPREAD = 0.56  # width that the heads of a layer take on the axis of layers


def plot(rows: Sequence[AggregateRow]) -> bytes:
    """An aggregate as a PNG; see `draw`."""
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(draw(rows))
    canvas.print_png(buffer, metadata={"Software": None})  # it names matplotlib's release
    return buffer.getvalue()


def draw(rows: Sequence[AggregateRow]) -> Figure:
    """A row of panels for each model and method: two numbers by layer, one point per head.

    Points are means over pictures, thin bars span the middle half of the pictures, and the line is
    the mean of the heads. The points are those of figure 7 of Dosovitskiy et al. 2021
    (2010.11929). If there is one layer, its heads lie side by side along the axis, and so do
    localized heads by their rank. For methods that merge heads, the numbers are those of the maps.
    """
    first = [row for row in rows if row.question == 0]
    runs = dict.fromkeys((row.model, row.weights, row.method) for row in first)
    figure = Figure(figsize=(2 * _WIDTH, _HEIGHT * len(runs)), layout="constrained", dpi=150)
    parts = figure.subfigures(len(runs), 1, squeeze=False)[:, 0]
    for part, run in zip(parts, runs, strict=True):
        run_rows = [row for row in first if (row.model, row.weights, row.method) == run]
        part.suptitle(_heading(run_rows), x=0.01, ha="left", fontsize=9, fontweight="bold")
        panels = _HEADS if any(_defined(run_rows, name) for name in _HEADS) else _MAPS
        for ax, (name, words) in zip(part.subplots(1, 2), panels.items(), strict=True):
            _panel(ax, _defined(run_rows, name))
            _dress(ax, *words)
    return figure


def _defined(rows: Sequence[AggregateRow], name: str) -> list[tuple[AggregateRow, Spread]]:
    return [(row, spread) for row in rows if (spread := row.statistics.get(name)) is not None]


def _heading(rows: Sequence[AggregateRow]) -> str:
    count = max(row.pictures for row in rows)
    model = rows[0].model if len(rows[0].model) <= 40 else f"…{rows[0].model[-39:]}"
    who = f"{model}, weights {rows[0].weights}" if rows[0].weights != "pretrained" else model
    title = f"{who if len(who) <= 70 else model}, {rows[0].method}"
    return f"{title}: means over {count} picture{'s' * (count != 1)}, bars from 25 to 75 %"


def _panel(ax: Any, spreads: Sequence[tuple[AggregateRow, Spread]]) -> None:
    if not spreads:
        ax.text(0.5, 0.5, "not defined", ha="center", color=_FAINT, transform=ax.transAxes)
        return
    layers = sorted({_layer(row) for row, _ in spreads})
    alone = len(layers) == 1
    places = [
        float(row.rank or row.head or 0) if alone else _layer(row) + _aside(row, spreads)
        for row, _ in spreads
    ]
    means = [spread.mean for _, spread in spreads]
    ax.vlines(
        places, [spread.q25 for _, spread in spreads], [spread.q75 for _, spread in spreads],
        color=_POINT, linewidth=1.1, alpha=0.28,
    )  # fmt: skip
    ax.plot(places, means, "o", color=_POINT, markersize=3.6, markeredgewidth=0, alpha=0.9)
    if alone:
        ax.axhline(sum(means) / len(means), color=_LINE, linewidth=1.2)
        of = "rank of the localized head" if layers[0] < 0 else f"head of layer {layers[0]}"
        ax.set_xlabel(of, fontsize=7.5, color=_FAINT)
    else:
        ax.plot(layers, [_mean_of(layer, spreads) for layer in layers], color=_LINE, linewidth=1.4)
        ax.set_xlabel("layer", fontsize=7.5, color=_FAINT)
    _bound(ax, spreads)


def _layer(row: AggregateRow) -> int:
    """The layer of a row, −1 for localized heads."""
    return -1 if row.layer is None else row.layer


def _aside(row: AggregateRow, spreads: Sequence[tuple[AggregateRow, Spread]]) -> float:
    """How far beside its layer a head's point lies, so that bars do not hide each other."""
    heads = [other.head for other, _ in spreads if other.layer == row.layer]
    return _SPREAD * ((heads.index(row.head) + 0.5) / len(heads) - 0.5)


def _mean_of(layer: int, spreads: Sequence[tuple[AggregateRow, Spread]]) -> float:
    means = [spread.mean for row, spread in spreads if _layer(row) == layer]
    return sum(means) / len(means)


def _bound(ax: Any, spreads: Sequence[tuple[AggregateRow, Spread]]) -> None:
    """Set the limits of the axis: from 0 if no value is negative, with room above."""
    low = min(min(spread.q25, spread.mean) for _, spread in spreads)
    high = max(max(spread.q75, spread.mean) for _, spread in spreads)
    room = 0.06 * (high - min(low, 0.0)) or 1.0
    ax.set_ylim(0 if low >= 0 else low - room, high + room)


def _dress(ax: Any, title: str, unit: str) -> None:
    ax.set_title(title, fontsize=8.5, loc="left", color=_INK)
    ax.set_ylabel(unit, fontsize=7.5, color=_FAINT)
    ax.tick_params(labelsize=7, colors=_FAINT, length=2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=13))
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#b0b0b0")
