"""Plots an evaluation: a panel for each metric, with intervals and baselines."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from attnviz.evaluation import (
    BEST,
    GAUSSIAN,
    GROUPS,
    LOCALIZED,
    MEAN,
    METRICS,
    ORACLE,
    RANDOM,
    SALIENCY,
)
from attnviz.output.schema import EvaluationRow, Interval

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito 2008
_RANDOM, _TRIVIAL = "#444444", {GAUSSIAN: "#b07a00", SALIENCY: "#7b4fa0"}
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_WIDTH, _HEIGHT = 3.3, 2.7  # size of a panel in inches
_OF_SEVERAL = (MEAN, BEST, LOCALIZED, ORACLE)
_ACROSS = {LOCALIZED: ("-", 1.6), ORACLE: ("-.", 1.0), MEAN: ("--", 1.0)}
"""The line style and width of heads of several layers."""
_ASIDE = 0.1  # distance between lines, in layers
_ROW = 0.19  # height of a row in a list of maps, in inches
Panel = tuple[str, str, str]
"""Model, group and metric."""


def plot(rows: Sequence[EvaluationRow]) -> bytes:
    """An evaluation as a PNG; see `draw`."""
    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(draw(rows))
    canvas.print_png(buffer)
    return buffer.getvalue()


def draw(rows: Sequence[EvaluationRow]) -> Figure:
    """A row of panels for each model and group of metrics, one panel per metric.

    With several layers, a panel shows the mean map of the heads by layer with its bootstrap
    intervals, single heads as points, and baselines. Maps without a layer, such as that of the most
    localized heads, are level lines. With one layer, it lists every map.
    """
    lines = _lines(rows)
    listed = len({row.layer for row in rows if row.method and row.layer is not None}) == 1
    columns = max(len(line) for line in lines)
    heights = [0.9 + _ROW * len(_maps(rows, line)) if listed else _HEIGHT for line in lines]
    size = _WIDTH * columns + 1.2 * listed, sum(heights) + (0 if listed else 0.5)
    figure = Figure(figsize=size, layout="constrained", dpi=150)
    parts = figure.subfigures(len(lines), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, line in zip(parts, lines, strict=True):
        maps = _maps(rows, line)
        part.suptitle(_heading(maps[0]), x=0.01, ha="left", fontsize=9, fontweight="bold")
        for i, ax in enumerate(part.subplots(1, columns, squeeze=False)[0]):
            if i >= len(line):
                ax.axis("off")
                continue
            (_list if listed else _follow)(ax, maps, line[i][2])
            if listed:
                ax.set_yticklabels([_label(row) for row in maps] if i == 0 else [])
            _dress(ax, line[i][2])
    if not listed:
        _legend(figure)
    return figure


def _lines(rows: Sequence[EvaluationRow]) -> list[list[Panel]]:
    models = dict.fromkeys(row.model for row in rows)
    lines = [
        [(model, group, name) for name in rows[0].metrics if METRICS[name].group == group]
        for model in models
        for group in GROUPS
    ]
    return [line for line in lines if line]


def _maps(rows: Sequence[EvaluationRow], line: Sequence[Panel]) -> list[EvaluationRow]:
    """Rows that have a number in at least one of the panels."""
    return [
        row
        for row in rows
        if row.model == line[0][0] and any(row.metrics[name] for _, _, name in line)
    ]


def _defined(maps: Sequence[EvaluationRow], name: str) -> list[tuple[EvaluationRow, Interval]]:
    """Rows that have the number `name`, each with that number."""
    return [(row, value) for row in maps if (value := row.metrics[name]) is not None]


def _heading(row: EvaluationRow) -> str:
    count = f"{row.pictures} picture{'s' * (row.pictures != 1)}"
    return f"{_short(row.model)}, {count}: means and bootstrap 95 % intervals"


def _dress(ax: Any, name: str) -> None:
    better = "higher" if METRICS[name].higher else "lower"
    ax.set_title(f"{name}  ({better} is better)", fontsize=8, loc="left", color=_INK)
    ax.tick_params(labelsize=7, colors=_FAINT, length=2)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#b0b0b0")


def _short(model: str) -> str:
    return model if len(model) <= 40 else f"…{model[-39:]}"


def _list(ax: Any, maps: Sequence[EvaluationRow], name: str) -> None:
    """Draw all maps of one layer, one below the other."""
    for y, row in enumerate(maps):
        value = row.metrics[name]
        if value is None:
            continue
        solid = row.head in _OF_SEVERAL or row.method is None
        ax.errorbar(
            value.mean, y, xerr=_arms(value), fmt="o" if solid else ".", color=_colour(row, maps),
            markersize=4 if solid else 5, elinewidth=1, alpha=1 if solid else 0.65,
        )  # fmt: skip
    ax.set_yticks(range(len(maps)))
    ax.set_ylim(len(maps) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    _bound(ax.set_xlim, _defined(maps, name))


def _follow(ax: Any, maps: Sequence[EvaluationRow], name: str) -> None:
    """Draw maps by layer: heads as points, their mean and the best as lines, baselines behind."""
    defined = _defined(maps, name)
    for row, value in defined:
        if row.layer is None:
            colour, (style, width) = _colour(row, maps), _ACROSS.get(str(row.head), (":", 1))
            ax.axhspan(value.low, value.high, color=colour, alpha=0.07, linewidth=0)
            ax.axhline(
                value.mean, color=colour, linewidth=width, linestyle=style, label=_label(row)
            )
        elif row.baseline is None and isinstance(row.head, int):
            ax.plot(row.layer, value.mean, ".", color=_colour(row, maps), markersize=4, alpha=0.5)
    lines: dict[str, list[tuple[EvaluationRow, Interval]]] = {}
    for row, value in defined:
        if row.layer is not None and not isinstance(row.head, int):
            lines.setdefault(_label(row), []).append((row, value))
    for i, (label, line) in enumerate(lines.items()):
        aside = _ASIDE * (i - (len(lines) - 1) / 2)  # keeps intervals from overlapping
        _line(ax, line, label, colour=_colour(line[0][0], maps), aside=aside)
    ax.set_xlabel("layer", fontsize=7, color=_FAINT)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    _bound(ax.set_ylim, defined)


def _line(
    ax: Any,
    line: Sequence[tuple[EvaluationRow, Interval]],
    label: str,
    *,
    colour: str,
    aside: float,
) -> None:
    """Draw one kind of map by layer, with its intervals."""
    row = line[0][0]
    best, plain = row.head == BEST, row.baseline is None
    arms = [_arms(value) for _, value in line]
    ax.errorbar(
        [(row.layer or 0) + aside for row, _ in line], [value.mean for _, value in line],
        yerr=[[arm[end][0] for arm in arms] for end in (0, 1)],
        color=colour, linewidth=1.4 if plain else 1, elinewidth=0.8, capsize=1.5,
        markersize=3.2, marker="^" if best else "o", linestyle="-" if plain else "--",
        label=label, alpha=0.6 if best else 1,
    )  # fmt: skip


def _arms(value: Interval) -> list[list[float]]:
    """How far the interval reaches below and above the mean."""
    return [[max(0.0, value.mean - value.low)], [max(0.0, value.high - value.mean)]]


def _label(row: EvaluationRow) -> str:
    if row.method is None:
        return str(row.baseline)
    who = row.method if row.baseline is None else f"{row.method}, {row.baseline}"
    words = {
        MEAN: "mean of heads" if row.layer is not None else "mean over layers",
        BEST: "best head",
        LOCALIZED: "localized heads",
        ORACLE: "oracle, by the masks",
        "None": "merged heads",
    }
    head = words.get(str(row.head), f"head {row.head}")
    return f"{who}: {head}"


def _colour(row: EvaluationRow, maps: Sequence[EvaluationRow]) -> str:
    if row.baseline == RANDOM:
        return _RANDOM
    if row.method is None:
        return _TRIVIAL[str(row.baseline)]
    methods = list(dict.fromkeys(other.method for other in maps if other.method))
    return _COLOURS[methods.index(row.method) % len(_COLOURS)]


def _bound(limit: Any, maps: Sequence[tuple[EvaluationRow, Interval]]) -> None:
    """Set the limits of the axis: from 0 if no value is negative, with room above."""
    low, high = min(value.low for _, value in maps), max(value.high for _, value in maps)
    room = 0.06 * (high - min(low, 0.0)) or 1.0
    limit(0 if low >= 0 else low - room, high + room)


def _legend(figure: Figure) -> None:
    """Draw one legend for all panels."""
    handles: dict[str, Any] = {}
    for ax in figure.get_axes():
        found, labels = ax.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(handles)),
        fontsize=7, frameon=False,
    )  # fmt: skip
