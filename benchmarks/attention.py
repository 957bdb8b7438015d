"""Measures the full table of statistics beside one fused attention call and the whole matrix.

    python benchmarks/attention.py                     every size; tens of minutes
    python benchmarks/attention.py 197 4096            some
    python benchmarks/attention.py --write             also RESULTS.md and the plot

Per size and head width, on the same q, k, v (8 heads, 2 threads, float32): `fused`, one call of
F.scaled_dot_product_attention; `ours`, every field of docs/formulas.md and the map of one query;
`whole`, the same from the materialised matrix, as far as it fits into 6 GB. Times are taken in
turn in one process, ratios pair by pair. Memory is the peak above the inputs, in one process for
each.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall, reference
from attnviz.attention.layer_input import LayerInput, LayerTokens
from attnviz.geometry.grid import Box, Layout, TokenGrid
from attnviz.geometry.placement import Placement
from attnviz.statistics import measure
from attnviz.statistics.maps import describe

SIZES = (197, 1370, 4096, 16_384, 50_176)
WIDTHS = (8, 64)
HEADS = 8
WHOLE_LIMIT = 6e9
RESULTS = Path(__file__).with_name("RESULTS.md")
PLOT = Path(__file__).with_name("attention.png")
Row = dict[str, float]


def inputs(tokens: int, width: int, device: str = "cpu") -> tuple[AttentionCall, TokenGrid]:
    """Random q, k, v on a nearly square grid, with a class token where the rest is a square."""
    side = math.isqrt(tokens)
    prefix = tokens - side * side if tokens - side * side <= 5 else 0
    columns = next(c for c in range(side, 0, -1) if (tokens - prefix) % c == 0)
    grid = TokenGrid((tokens - prefix) // columns, columns, 16, prefix)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, tokens, width, device=device).unbind()
    return AttentionCall(q, k, v, 1 / math.sqrt(width)), grid


def fused(call: AttentionCall, _: TokenGrid) -> None:
    """One fused call: what the model itself pays."""
    F.scaled_dot_product_attention(call.query, call.key, call.value)


def ours(call: AttentionCall, grid: TokenGrid) -> None:
    """Every statistic of every head, the map of the middle query, and its numbers."""
    device = call.query.device
    layout = Layout.whole(grid)
    positions = layout.of_tokens(grid.centres(), np.float64(0))
    tokens = LayerTokens(
        torch.from_numpy(layout.cells).to(device),
        torch.from_numpy(positions).float().to(device),
        torch.ones(1, grid.tokens, dtype=torch.bool, device=device),
    )
    weights = torch.zeros(1, grid.tokens, device=device)
    weights[0, grid.tokens // 2] = 1
    reading = LayerInput(call, tokens, tokens, weights[:, None], grid.grid_tokens)
    for values in measure(reading).values():
        values.cpu()
    numbers_of_maps(reading.on_cells(reading.received())[0], grid)


def whole(call: AttentionCall, grid: TokenGrid) -> None:
    """The same numbers by their formulas, from the matrix in float32."""
    a = reference.attention_matrix(call.query, call.key, scale=call.scale, dtype=torch.float32)
    prefix = torch.arange(grid.tokens) < grid.prefix
    reference.entropy(a, ~prefix)
    reference.confidence(a, ~prefix)
    reference.prefix_mass(a, ~prefix, prefix)
    reference.sink_mass(a, torch.ones_like(prefix))
    centres = torch.from_numpy(grid.centres()).float()
    inside = a[:, :, grid.prefix :, grid.prefix :] if grid.prefix else a
    ((inside * torch.cdist(centres, centres)).sum(-1) / inside.sum(-1)).mean(-1)
    numbers_of_maps(a[0, :, grid.tokens // 2, grid.prefix :], grid)


def numbers_of_maps(maps: torch.Tensor, grid: TokenGrid) -> None:
    """What is said of the map of each head, (heads, cells)."""
    whole_picture = Box(0.0, 0.0, float(grid.input_width), float(grid.input_height))
    size = grid.input_width, grid.input_height
    placement = Placement(*size, whole_picture, whole_picture, grid)
    everything = np.ones((grid.rows, grid.columns), dtype=np.bool_)
    for values in maps.cpu().numpy():
        describe(values.reshape(grid.rows, grid.columns), everything, placement)


WAYS: dict[str, Callable[[AttentionCall, TokenGrid], None]] = {
    "fused": fused,
    "ours": ours,
    "whole": whole,
}


def fits(way: str, tokens: int) -> bool:
    """Whether the matrix and its copies may be made."""
    return way != "whole" or 3 * 4 * HEADS * tokens**2 <= WHOLE_LIMIT


def times(tokens: int, width: int, rounds: int) -> Row:
    """Median seconds of each way, and median ratios to `fused`, taken in turn."""
    call, grid = inputs(tokens, width)
    ways = {name: run for name, run in WAYS.items() if fits(name, tokens)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + (tokens <= 16_384)):
        for name, run in ways.items():
            start = time.perf_counter()
            run(call, grid)
            if number or tokens > 16_384:  # the first round warms up, where that is affordable
                taken[name].append(time.perf_counter() - start)
    row: Row = {f"{name}_s": statistics.median(each) for name, each in taken.items()}
    for name in ways:
        pairs = [a / b for a, b in zip(taken[name], taken["fused"], strict=True)]
        row[f"{name}_ratio"] = statistics.median(pairs)
    return row


def peak(way: str, tokens: int, width: int) -> float:
    """Megabytes that a way takes at its peak above its inputs, in this process (Linux)."""
    small = inputs(300, width)
    WAYS[way](*small)  # what libraries allocate once is no part of it
    call, grid = inputs(tokens, width)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    WAYS[way](call, grid)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def child(*arguments: object) -> Row:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, check=True, text=True)
    row: Row = json.loads(run.stdout)
    return row


def measured(tokens: int, width: int) -> Row:
    """Times, ratios and peaks of one size."""
    rounds = 15 if tokens <= 4096 else 5 if tokens <= 16_384 else 2
    row: Row = {"tokens": tokens, "width": width}
    row |= child("--times", tokens, width, rounds)
    for way in WAYS:
        if fits(way, tokens) and Path("/proc/self/clear_refs").exists():
            row |= {f"{way}_mb": child("--peak", way, tokens, width)["mb"]}
    return row


def exponent(rows: list[Row], width: int, column: str) -> float:
    """Slope of ln(column) over ln N from 1 370 tokens on."""
    chosen = [row for row in rows if row["width"] == width and row["tokens"] >= 1370]
    x = np.log([row["tokens"] for row in chosen])
    y = np.log([max(row[column], 1.0) if column.endswith("_mb") else row[column] for row in chosen])
    return float(np.polyfit(x, y, 1)[0])


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| N | D | fused, s | ours / fused | whole / fused | ours, MB | whole, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row['tokens']:.0f}", f"{row['width']:.0f}", f"{row['fused_s']:.4g}"]
        for column, style in (
            ("ours_ratio", ".2f"), ("whole_ratio", ".2f"), ("ours_mb", ".0f"), ("whole_mb", ".0f")
        ):  # fmt: skip
            cells.append(format(row[column], style) if column in row else "–")
        lines.append("| " + " | ".join(cells) + " |")
    if len({row["tokens"] for row in rows if row["tokens"] >= 1370}) > 1:
        for width in WIDTHS:
            time_slope = exponent(rows, width, "ours_s")
            slope = exponent(rows, width, "fused_s")
            text = f"\nD = {width}: time grows as N^{time_slope:.2f} (fused: N^{slope:.2f})"
            if "ours_mb" in rows[0]:
                text += f", memory as N^{exponent(rows, width, 'ours_mb'):.2f}"
            lines.append(text + ".")
    return "\n".join(lines)


def plot(rows: list[Row]) -> None:
    """Time and memory over N, both axes logarithmic."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axis, unit, label in ((axes[0], "_s", "seconds"), (axes[1], "_mb", "MB above the inputs")):
        for width, line in zip(WIDTHS, ("-", "--"), strict=True):
            for way, colour in zip(WAYS, ("#555555", "#21918c", "#c8443c"), strict=True):
                points = [
                    (row["tokens"], row[way + unit])
                    for row in rows
                    if row["width"] == width and way + unit in row
                ]
                axis.plot(*zip(*points, strict=True), line, marker="o", color=colour,
                          label=f"{way}, D = {width}")  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="tokens N", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(PLOT, dpi=110)


def section(rows: list[Row]) -> str:
    """What RESULTS.md says of this run."""
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return (
        f"torch {torch.__version__}, {machine}, attnviz {attnviz.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}; 8 heads, float32.\n\n{table(rows)}\n"
    )


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--times", nargs=3, type=int)
    parser.add_argument("--peak", nargs=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.times:
        print(json.dumps(times(*options.times)))
    elif options.peak:
        way, tokens, width = options.peak
        print(json.dumps({"mb": peak(way, int(tokens), int(width))}))
    else:
        rows = []
        for tokens in options.sizes or SIZES:
            for width in WIDTHS:
                rows.append(measured(tokens, width))
                print({name: round(value, 4) for name, value in rows[-1].items()}, flush=True)
        print(table(rows))
        if options.write:
            write(rows)


def write(rows: list[Row]) -> None:
    """Replace the section of this benchmark in RESULTS.md, and the plot."""
    plot(rows)
    start, end = "<!-- attention -->\n", "<!-- /attention -->"
    text = RESULTS.read_text(encoding="utf-8")
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    RESULTS.write_text(head + start + section(rows) + end + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
