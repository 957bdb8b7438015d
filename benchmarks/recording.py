"""Measures the cost of recording: its time beside the bare forward pass, and the bytes it keeps.

    python benchmarks/recording.py                     ViT-B, 224, 2 threads
    python benchmarks/recording.py --rounds 40
    python benchmarks/recording.py --write             also RESULTS.md

A ViT-B of transformers with random weights: `bare` is its forward pass with fused attention,
`record` the same inside `attnviz.record()`, `picture` with the places of tokens traced, and `eager`
the same model asked for `output_attentions=True`, which makes every N×N matrix. They are run in
turn in one process; ratios are taken pair by pair. The promise for `record` is at most 1.10, and at
most the bytes of q, k, v and output.

Two ViTs of width 48 and 12 layers do almost no work, so that watching them costs most: one as a
plain module, one of transformers. `record(model)` is measured after its first run, in seconds of
the process on one thread. The promise is at most 1.30, and 1.40 with positions and blocks.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel
from transformers import __version__ as transformers_version

import attnviz
from attnviz.attention import AttentionCall

RESULTS = Path(__file__).with_name("RESULTS.md")
PROMISE = 1.10
LIGHT_PROMISES = {"light": 1.30, "light_blocks": 1.40}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
Row = dict[str, float]


def vit(attention: str, **sizes: Any) -> Any:
    """A ViT of transformers, ViT-B unless told otherwise; the same weights each time."""
    torch.manual_seed(0)
    config = ViTConfig(**sizes)
    config._attn_implementation = attention  # noqa: SLF001 — transformers' own name for it
    model: Any = ViTModel(config, add_pooling_layer=False)
    return model.eval()


class Layer(nn.Module):
    """One layer of a ViT, written plainly."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm, self.norm_2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], 3, self.heads, x.shape[2] // self.heads)
        q, k, v = self.qkv(self.norm(x)).view(shape).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        tokens: Tensor = x + self.mlp(self.norm_2(x))
        return tokens


class PlainViT(nn.Module):
    """A ViT without a library."""

    def __init__(self, width: int = 48, heads: int = 3, layers: int = 12) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm = nn.Conv2d(3, width, 16, 16), nn.LayerNorm(width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 197, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patches(pixels).flatten(2).mT
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.places
        tokens: Tensor = self.norm(self.layers(x))
        return tokens


def given(model: Any, pixels: Tensor, **options: Any) -> None:
    with attnviz.record(model, **options):
        model(pixels)


def light(rounds: int) -> dict[str, Row]:
    """For each of the small ViTs: median ratios of ways to `bare`, of time of the process."""
    pixels, threads = torch.randn(1, 3, 224, 224), torch.get_num_threads()
    torch.set_num_threads(1)
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 192}
    rows = {}
    for name, model in {"plain": PlainViT().eval(), "transformers": vit("sdpa", **sizes)}.items():
        eager = vit("eager", **sizes)
        ways: dict[str, Callable[[], object]] = {
            "bare": partial(model, pixels),
            "light": partial(given, model, pixels),
            "light_blocks": partial(given, model, pixels, picture=pixels, blocks=model),
            "record": partial(recorded, model, pixels),
            "picture": partial(traced, model, pixels),
            "eager": partial(eager, pixels, output_attentions=True),
        }
        rows[name] = ratios(ways, rounds, time.process_time)
    torch.set_num_threads(threads)
    return rows


def ratios(ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> Row:
    """Median seconds of each way, and median ratios to `bare`, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 2):
        names.append(names.pop(0))  # none is always first, or always behind the largest
        for name in names:
            start = clock()
            ways[name]()
            if number > 1:  # the first rounds warm up
                taken[name].append(clock() - start)
    row: Row = {f"{name}_s": statistics.median(each) for name, each in taken.items()}
    for name in ways:
        pairs = [a / b for a, b in zip(taken[name], taken["bare"], strict=True)]
        row[f"{name}_ratio"] = statistics.median(pairs)
    return row


def recorded(model: Any, pixels: Tensor) -> None:
    with attnviz.record():
        model(pixels)


def traced(model: Any, pixels: Tensor) -> None:
    with attnviz.record(picture=pixels):
        model(pixels)


def times(rounds: int) -> Row:
    """Median seconds of each way, and median ratios to `bare`, taken in turn."""
    model, eager, pixels = vit("sdpa"), vit("eager"), torch.randn(1, 3, 224, 224)
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: model(pixels),
        "record": lambda: recorded(model, pixels),
        "picture": lambda: traced(model, pixels),
        "eager": lambda: eager(pixels, output_attentions=True),
    }
    return ratios(ways, rounds, time.perf_counter)


def kept(recording: Iterable[AttentionCall]) -> tuple[int, int]:
    """Bytes that a recording holds, memory shared counted once; bytes of q, k, v and output."""
    storages: dict[int, int] = {}
    own = 0
    for call in recording:
        assert call.output is not None
        for tensor in (call.query, call.key, call.value, call.output):
            own += tensor.nbytes
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        for also in (call.bias, call.query_positions, call.key_positions):
            if also is not None:
                storages[also.untyped_storage().data_ptr()] = also.untyped_storage().nbytes()
    return sum(storages.values()), own


def sizes() -> Row:
    """Bytes kept of every call of ViT-B, and of the last call of ViT-L."""
    pixels = torch.randn(1, 3, 224, 224)
    with attnviz.record() as whole:
        vit("sdpa")(pixels)
    with attnviz.record(calls=[-1]) as last:
        vit("sdpa", **LARGE)(pixels)
    row: Row = dict(zip(("base_kept", "base_own"), kept(whole), strict=True))
    return row | dict(zip(("large_kept", "large_own"), kept([last[-1]]), strict=True))


def table(row: Row) -> str:
    """The figures as Markdown."""
    lines = ["| way | milliseconds | / bare |", "|---|---|---|"]
    for name, what in {
        "bare": "bare forward pass, fused",
        "record": "`attnviz.record()`",
        "picture": "`attnviz.record(picture=…)`",
        "eager": "eager, `output_attentions=True`",
    }.items():
        lines.append(f"| {what} | {row[f'{name}_s'] * 1e3:.0f} | {row[f'{name}_ratio']:.3f} |")
    lines += ["", "| kept | MB | MB of q, k, v, output |", "|---|---|---|"]
    for name, what in {"base": "ViT-B, all calls", "large": "ViT-L, `calls=[-1]`"}.items():
        held, own = row[f"{name}_kept"] / 1e6, row[f"{name}_own"] / 1e6
        lines.append(f"| {what} | {held:.2f} | {own:.2f} |")
    return "\n".join(lines)


def light_table(rows: dict[str, Row]) -> str:
    """The ratios of the small ViTs as Markdown."""
    lines = [
        "| ViT of width 48, 12 layers, batch 1, / bare | plain module | transformers, `sdpa` |",
        "|---|---|---|",
    ]
    for name, what in {
        "light": "`record(model)`",
        "light_blocks": "`record(model, picture=…, blocks=model)`",
        "record": "`record()`",
        "picture": "`record(picture=…)`",
        "eager": "eager, `output_attentions=True` (of transformers)",
    }.items():
        figures = " | ".join(f"{row[f'{name}_ratio']:.2f}" for row in rows.values())
        lines.append(f"| {what} | {figures} |")
    return "\n".join(lines)


def section(row: Row, rows: dict[str, Row], rounds: int) -> str:
    """What RESULTS.md says of this run."""
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return (
        f"torch {torch.__version__}, transformers {transformers_version}, {machine}, "
        f"attnviz {attnviz.__version__}, {datetime.now(UTC):%Y-%m-%d}; {rounds} rounds.\n\n"
        f"{table(row)}\n\n"
        f"After the first run, one thread, {5 * rounds} rounds, bare "
        f"{rows['plain']['bare_s'] * 1e3:.1f} and {rows['transformers']['bare_s'] * 1e3:.1f} ms; "
        "the promise is at most 1.30, and 1.40 with positions and blocks:\n\n"
        f"{light_table(rows)}\n"
    )


def write(row: Row, rows: dict[str, Row], rounds: int) -> None:
    """Replace the section of this benchmark in RESULTS.md."""
    start, end = "<!-- recording -->\n", "<!-- /recording -->"
    text = RESULTS.read_text(encoding="utf-8")
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    RESULTS.write_text(head + start + section(row, rows, rounds) + end + tail, encoding="utf-8")


def main() -> None:
    """Measure, print, and say whether the promise is kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with torch.no_grad():
        row = times(options.rounds) | sizes()
        rows = light(5 * options.rounds)
    print(f"load {os.getloadavg()[0]:.2f}")
    print(table(row))
    print(light_table(rows))
    light_held = all(
        row[f"{name}_ratio"] <= most
        for row in rows.values()
        for name, most in LIGHT_PROMISES.items()
    )
    print(f"promises of {LIGHT_PROMISES}: {'kept' if light_held else 'BROKEN'}")
    held = row["record_ratio"] <= PROMISE and row["base_kept"] <= row["base_own"]
    print(
        f"promise of {PROMISE:.2f} and the bytes of q, k, v, output: {'kept' if held else 'BROKEN'}"
    )
    if options.write:
        write(row, rows, options.rounds)


if __name__ == "__main__":
    main()
