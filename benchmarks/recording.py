"""Measures the cost of recording: its time beside the bare forward pass, and the bytes it keeps.

    python benchmarks/recording.py                     ViT-B, 224, 2 threads
    python benchmarks/recording.py --rounds 40
    python benchmarks/recording.py --write             also RESULTS.md

A ViT-B of transformers with random weights: `bare` is its forward pass with fused attention,
`record` the same inside `attnviz.record()`, `picture` with the places of tokens traced, and `eager`
the same model asked for `output_attentions=True`, which makes every N×N matrix. They are run in
turn in one process; ratios are taken pair by pair. The promise for `record` is at most 1.10, and at
most the bytes of q, k, v and output.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ViTConfig, ViTModel
from transformers import __version__ as transformers_version

import attnviz
from attnviz.attention import AttentionCall

RESULTS = Path(__file__).with_name("RESULTS.md")
PROMISE = 1.10
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
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 2):
        names.append(names.pop(0))  # none is always first, or always behind the largest
        for name in names:
            start = time.perf_counter()
            ways[name]()
            if number > 1:  # the first rounds warm up
                taken[name].append(time.perf_counter() - start)
    row: Row = {f"{name}_s": statistics.median(each) for name, each in taken.items()}
    for name in ways:
        pairs = [a / b for a, b in zip(taken[name], taken["bare"], strict=True)]
        row[f"{name}_ratio"] = statistics.median(pairs)
    return row


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


def section(row: Row, rounds: int) -> str:
    """What RESULTS.md says of this run."""
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return (
        f"torch {torch.__version__}, transformers {transformers_version}, {machine}, "
        f"attnviz {attnviz.__version__}, {datetime.now(UTC):%Y-%m-%d}; {rounds} rounds.\n\n"
        f"{table(row)}\n"
    )


def write(row: Row, rounds: int) -> None:
    """Replace the section of this benchmark in RESULTS.md."""
    start, end = "<!-- recording -->\n", "<!-- /recording -->"
    text = RESULTS.read_text(encoding="utf-8")
    head, rest = text.split(start)
    tail = rest.split(end)[1]
    RESULTS.write_text(head + start + section(row, rounds) + end + tail, encoding="utf-8")


def main() -> None:
    """Measure, print, and say whether the promise is kept."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with torch.no_grad():
        row = times(options.rounds) | sizes()
    print(f"load {os.getloadavg()[0]:.2f}")
    print(table(row))
    held = row["record_ratio"] <= PROMISE and row["base_kept"] <= row["base_own"]
    print(
        f"promise of {PROMISE:.2f} and the bytes of q, k, v, output: {'kept' if held else 'BROKEN'}"
    )
    if options.write:
        write(row, options.rounds)


if __name__ == "__main__":
    main()
