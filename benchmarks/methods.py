"""Measures rollout and relevance as row vectors against products of whole matrices.

    python benchmarks/methods.py              1 370 and 16 384 tokens; some ten minutes
    python benchmarks/methods.py 1370         one of them
    python benchmarks/methods.py --write      also RESULTS.md

12 layers of 12 heads of 64, float32, one query, 2 threads. `ours` starts from q, k, v (and dO).
`given` are the full products of N×N matrices: the attention of every head (and its gradient)
exists before the clock starts, as `output_attentions` and autograd return it. `made` also computes
those matrices, layer by layer, from the same start as `ours`. Times are taken in turn in one
process, ratios pair by pair. Memory is the peak above q, k, v and dO, in one process for each; if
whole matrices would not fit, it is that of two layers, since ours frees one before the next.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import attnviz
from attnviz.attention import AttentionCall
from attnviz.attention.layer_input import LayerInput
from attnviz.methods.gradients import relevance
from attnviz.methods.rollout import rollout

WIDTH = 64
SIZES = (1370, 16_384)
WHOLE = 2000
"""So many tokens at most for whole matrices."""
METHODS = ("rollout", "rollout, max, discard 0.9", "relevance")
RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = (
    "| method | N | ours, s | given, s | ours / given | made, s | ours / made | ours, MB "
    "| given, MB | made, MB | apart |"
)
Row = dict[str, float]
Matrices = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    layers: int
    heads: int
    tokens: int


def inputs(size: Size, method: str) -> list[LayerInput]:
    """Layers of random tokens, asked from the first."""
    stream = torch.Generator().manual_seed(0)
    shape = 1, size.heads, size.tokens, WIDTH
    found = []
    for _ in range(size.layers):
        q, k, v, gradient = (
            torch.randn(shape, generator=stream) if name in "qk" or method == "relevance"
            else torch.zeros(1, 1, 1, 1).expand(shape)
            for name in ("q", "k", "v", "gradient")
        )  # fmt: skip
        call = AttentionCall(q, k, v, WIDTH**-0.5, gradient=gradient)
        found.append(LayerInput.of(call, torch.eye(1, size.tokens)))
    return found


def ours(readings: list[LayerInput], method: str) -> Tensor:
    """The map, (N,), by a vector."""
    if method == "relevance":
        return relevance(readings)[0, 0, 0]
    if method == "rollout":
        return rollout(readings)[0, 0, 0]
    return rollout(readings, fusion="max", discard=0.9)[0, 0, 0]


def matrices(readings: list[LayerInput], method: str) -> Iterator[Matrices]:
    """A and ∇A of every layer, (heads, N, N)."""
    for reading in readings:
        call = reading.call
        a = (call.query[0] * call.scale @ call.key[0].transpose(1, 2)).softmax(-1)
        assert call.gradient is not None
        slope = call.gradient[0] @ call.value[0].transpose(1, 2) if method == "relevance" else None
        yield a, slope


def product(layers: Iterator[Matrices], method: str) -> Tensor:
    """The map, (N,), by the product of whole matrices."""
    r: Tensor | None = None
    for a, slope in layers:
        if slope is not None:
            m = torch.mul(a, slope).relu_().mean(0)
            r = torch.eye(len(m)).add_(m) if r is None else r.addmm(m, r)
            continue
        m = a.mean(0) if method == "rollout" else a.amax(0)
        if method != "rollout":
            least = m.flatten().kthvalue(int(0.9 * m.numel()) + 1).values
            own = m[0, 0].clone()
            m.masked_fill_(m < least, 0.0)[0, 0] = own
        m.diagonal().add_(1)
        m.div_(m.sum(-1, keepdim=True))
        r = m if r is None else m @ r
    assert r is not None  # there are layers
    row = r[0].clone()
    row[0] -= float(method == "relevance")
    return row


def run(way: str, readings: list[LayerInput], method: str) -> tuple[Tensor, float]:
    """The map, and the seconds that it takes."""
    layers = list(matrices(readings, method)) if way == "given" else []
    start = time.perf_counter()
    if way == "ours":
        found = ours(readings, method)
    else:
        found = product(iter(layers) if layers else matrices(readings, method), method)
    return found, time.perf_counter() - start


def ways(tokens: int) -> tuple[str, ...]:
    """Those that can be afforded."""
    return ("ours", "given", "made") if tokens <= WHOLE else ("ours",)


def times(size: Size, method: str, rounds: int) -> Row:
    """Median seconds of each way, median ratios of ours to others, how far the maps are apart."""
    readings = inputs(size, method)
    taken: dict[str, list[float]] = {way: [] for way in ways(size.tokens)}
    maps: dict[str, Tensor] = {}
    for number in range(rounds + (size.tokens <= WHOLE)):
        for way, each in taken.items():
            maps[way], seconds = run(way, readings, method)
            if number or size.tokens > WHOLE:  # the first round warms up, where that is affordable
                each.append(seconds)
    row: Row = {f"{way}_s": statistics.median(each) for way, each in taken.items()}
    for way in ways(size.tokens)[1:]:
        pairs = [a / b for a, b in zip(taken["ours"], taken[way], strict=True)]
        row[f"{way}_ratio"] = statistics.median(pairs)
        apart = (maps["ours"] - maps[way]).abs().max() / maps[way].abs().max()
        row["apart"] = float(apart)
    return row


def peak(way: str, size: Size, method: str) -> float:
    """Megabytes that a way takes at its peak above its inputs, in this process (Linux)."""
    small = inputs(replace(size, tokens=300), method)
    run(way, small, method)  # what libraries allocate once is no part of it
    readings = inputs(size, method)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    run(way, readings, method)
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))


def child(*arguments: object) -> Row:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    row: Row = json.loads(done.stdout)
    return row


def line(tokens: int, method: str, rounds: int) -> str:
    """A row of the table, measured."""
    row = child("--times", tokens, method, rounds)
    if Path("/proc/self/clear_refs").exists():
        layers = 12 if tokens <= WHOLE else 2
        for way in ways(tokens):
            row[f"{way}_mb"] = child("--layers", layers, "--peak", way, tokens, method)["mb"]
    columns = (
        ("ours_s", ".3g"), ("given_s", ".3g"), ("given_ratio", ".2f"), ("made_s", ".3g"),
        ("made_ratio", ".2f"), ("ours_mb", ".0f"), ("given_mb", ".0f"), ("made_mb", ".0f"),
        ("apart", ".0e"),
    )  # fmt: skip
    cells = [format(row[name], style) if name in row else "–" for name, style in columns]
    return f"| {method} | {tokens} | {' | '.join(cells)} |"


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--times", nargs=3)
    parser.add_argument("--peak", nargs=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    sized = partial(Size, options.layers, options.heads)
    if options.times:
        tokens, method, rounds = options.times
        print(json.dumps(times(sized(int(tokens)), method, int(rounds))))
    elif options.peak:
        way, tokens, method = options.peak
        print(json.dumps({"mb": peak(way, sized(int(tokens)), method)}))
    else:
        rows = [HEAD, "|---" * 11 + "|"]
        print("\n".join(rows))
        for tokens in options.sizes or SIZES:
            for method in METHODS:
                rows.append(line(tokens, method, 5 if tokens <= WHOLE else 1))
                print(rows[-1], flush=True)
        if options.write:
            write("\n".join(rows))


def write(table: str) -> None:
    """Replace the section of this benchmark in RESULTS.md."""
    start, end = "<!-- methods -->\n", "<!-- /methods -->"
    text = RESULTS.read_text(encoding="utf-8")
    head, rest = text.split(start)
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    said = f"torch {torch.__version__}, {machine}, attnviz {attnviz.__version__}, "
    said += f"{datetime.now(UTC):%Y-%m-%d}.\n\n{table}\n"
    RESULTS.write_text(head + start + said + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
