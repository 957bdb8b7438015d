"""Measures attnviz on a card in at most eight minutes: one script for whoever has one.

    python benchmarks/gpu.py                            prints ratios and writes gpu.json
    python benchmarks/gpu.py --only table exactness     some sections
    python benchmarks/gpu.py --device cpu --quick       a tiny run, to try the script itself

It needs no network: models have random weights, and pictures are drawn. Sections:

    exactness   every statistic beside the float64 formulas, the largest error over 1 + |value|
    table       every statistic of a call beside one fused call, in turn; by the way that attnviz
                takes, and by blocks of rows
    record      recording ViT-B beside its bare forward pass: batch 1, with positions, batch 32
    batch       pictures a second of a folder, beside bare forwards and what decoding allows
    show        `attnviz show` of one layer of pixel tokens, beside one fused call of that size

What would begin after --minutes is left out, and said so.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from batch import draw, engine
from torch import Tensor
from torch.nn import functional as F

import attnviz
from attnviz.attention import AttentionCall, kernel
from attnviz.attention.call import Way
from attnviz.attention.sweep import SweepRequest
from attnviz.cli import main as attnviz_command

Row = dict[str, Any]
NUMBERS = ("lse", "entropy", "confidence", "prefix_mass", "distance", "sum_of_squares", "received")


@dataclass(frozen=True)
class Plan:
    """What is measured: sizes of a card, or the tiny ones of `--quick`."""

    device: torch.device
    seconds: float
    tokens: tuple[tuple[int, int, int], ...] = (
        (32, 12, 197),
        (1, 8, 4096),
        (1, 8, 16_384),
        (1, 8, 50_176),
    )
    """Pictures, heads and tokens of each row of the table."""
    exact: int = 1500
    rounds: int = 7
    vit: tuple[int, int, int, int] = (768, 12, 12, 224)
    """Width, layers, heads and input size of the vision transformer."""
    pictures: int = 600
    side: int = 512


QUICK = {
    "tokens": ((2, 2, 17), (1, 2, 130)), "exact": 40, "rounds": 1, "vit": (48, 2, 3, 32),
    "pictures": 4, "side": 12,
}  # fmt: skip


def seconds(plan: Plan, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way, taken in turn after one warm-up; the card is waited for."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(plan.rounds + 1):
        for name, run in ways.items():
            wait(plan)
            start = time.perf_counter()
            run()
            wait(plan)
            if number:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def wait(plan: Plan) -> None:
    if plan.device.type == "cuda":
        torch.cuda.synchronize(plan.device)


def call_of(plan: Plan, shape: tuple[int, int, int], dim: int, dtype: torch.dtype) -> AttentionCall:
    """A call of random numbers; scores reach about ± 5 at any width."""
    torch.manual_seed(0)
    batch, heads, tokens = shape
    query, key, value = torch.randn(3, batch, heads, tokens, dim, device=plan.device).to(dtype)
    return AttentionCall(query, key, value, dim**-0.5)


def request_of(tokens: int, device: torch.device) -> SweepRequest:
    """What attnviz asks of a layer with a class token, looked at from one query."""
    cells = torch.arange(tokens, device=device) > 0
    side = max(1, round(tokens**0.5))
    index = torch.arange(tokens, device=device)
    places = torch.stack([index % side, index // side], dim=-1) * 16.0
    weights = torch.full((2, tokens), 1 / tokens, device=device)
    weights[1] = 0
    weights[1, tokens // 2] = 1
    return SweepRequest(torch.ones_like(cells), ~cells, (places, places), cells, weights)


def ways_to_take(call: AttentionCall) -> list[Way]:
    """The kernel, where it serves, and the blocks."""
    return ["kernel", "blocks"] if kernel.missing(call) is None else ["blocks"]


def exactness(plan: Plan) -> Iterator[Row]:
    """The largest error of each statistic, of plain, masked, causal and grouped calls."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for dim in (8, 64):
            call = call_of(plan, (2, 4, plan.exact), dim, dtype)
            bias = torch.randn(2, 1, plan.exact, plan.exact, device=plan.device)
            asked = replace(request_of(plan.exact, plan.device), squares=True)
            kinds = {
                "plain": call,
                "bias": replace(call, bias=bias.masked_fill(bias > 1, -torch.inf)),
                "mask": replace(call, bias=bias[:, :, :1] > -1, causal=True),
                "groups": replace(call, key=call.key[:, :2], value=call.value[:, :2]),
            }
            for kind, each in kinds.items():
                expected = each.sweep(asked, way="reference")
                for way in ways_to_take(each):
                    for precision in precisions(way, dtype):
                        found = each.sweep(asked, way=way)
                        row: Row = {"dtype": name(dtype), "D": dim, "call": kind, "way": way}
                        row |= {"precision": precision}
                        for number in NUMBERS:
                            row[number] = error(getattr(found, number), getattr(expected, number))
                        yield row


def precisions(way: Way, dtype: torch.dtype) -> Iterator[str]:
    """The kernel's products of float32, one after the other; of other types there is one kind."""
    if (way, dtype) != ("kernel", torch.float32):
        yield "-"
        return
    before = kernel.PRECISION
    try:
        for precision in (before, "ieee"):
            kernel.PRECISION = precision
            yield precision
    finally:
        kernel.PRECISION = before


def error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / (1 + expected.abs())).max())


def table(plan: Plan) -> Iterator[Row]:
    """Every statistic of a call, beside one fused call."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape in plan.tokens:
            call = call_of(plan, shape, 64, dtype)
            asked = request_of(shape[2], plan.device)

            def fused(call: AttentionCall = call) -> None:
                F.scaled_dot_product_attention(call.query, call.key, call.value)

            for way in ways_to_take(call):
                for precision in precisions(way, dtype):
                    taken = seconds(
                        plan,
                        {"fused": fused, "ours": lambda: call.sweep(asked, way=way)},  # noqa: B023
                    )
                    row = {"dtype": name(dtype), "pictures": shape[0], "heads": shape[1]}
                    row |= {"N": shape[2], "way": way, "precision": precision}
                    yield row | beside(taken, "fused")


def record(plan: Plan) -> Iterator[Row]:
    """Recording ViT-B, beside its bare forward pass."""
    width, layers, heads, size = plan.vit
    for dtype, number in ((torch.float32, 1), (torch.bfloat16, 32)):
        modules = {
            kind: vit(kind, width, layers, heads, size).to(plan.device, dtype)
            for kind in ("sdpa", "eager")
        }
        module, pixels = modules["sdpa"], torch.rand(number, 3, size, size)
        pixels = pixels.to(plan.device, dtype)
        ways = {
            "bare": lambda: module(pixels),  # noqa: B023
            "record": lambda: recorded(module, pixels),  # noqa: B023
            "positions": lambda: recorded(module, pixels, picture=pixels),  # noqa: B023
            "eager": lambda: modules["eager"](pixels, output_attentions=True),  # noqa: B023
        }
        with torch.no_grad():
            yield {"dtype": name(dtype), "pictures": number} | beside(seconds(plan, ways), "bare")


def recorded(module: Any, pixels: Tensor, **options: Any) -> None:
    with attnviz.record(**options):
        module(pixels)


def vit(attention: str, width: int, layers: int, heads: int, size: int) -> Any:
    """A ViT of transformers, the same random weights each time."""
    from transformers import ViTConfig, ViTModel  # noqa: PLC0415

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * width, image_size=size,
    )  # fmt: skip
    config._attn_implementation = attention  # noqa: SLF001 — transformers' own name for it
    module: Any = ViTModel(config, add_pooling_layer=False)
    return module.eval()


def batch(plan: Plan) -> Iterator[Row]:
    """A folder with and without sheets, beside bare forwards and what decoding allows."""
    width, layers, heads, size = plan.vit
    with tempfile.TemporaryDirectory() as folder:
        photos, checkpoint = Path(folder) / "photos", Path(folder) / "model"
        draw(photos, plan.pictures)
        vit("sdpa", width, layers, heads, size).save_pretrained(checkpoint)
        dtype = "bfloat16" if plan.device.type == "cuda" else "float32"
        model = attnviz.load_model(str(checkpoint), device=str(plan.device), dtype=dtype)
        pixels = torch.rand(32, 3, size, size).to(plan.device, getattr(torch, dtype))
        with torch.no_grad():
            forward = seconds(plan, {"bare": lambda: model.module(pixels)})["bare"] / 32
        files = sorted(photos.rglob("*.jpg"))[:20]
        start = time.perf_counter()
        for path in files:
            attnviz.load_image(str(path))
        decoding = (time.perf_counter() - start) / len(files)
        allowed = min(1 / forward, (os.cpu_count() or 1) / decoding)
        engine(model, photos, "none")  # compiles kernels, opens files
        for pictures in ("none", "sheet"):
            each = plan.pictures / engine(model, photos, pictures).wall
            yield {
                "pictures": pictures,
                "dtype": dtype,
                "a second": each,
                "bare a second": 1 / forward,
                "decoding a second and core": 1 / decoding,
                "ratio": each / allowed,
            }


def show(plan: Plan) -> Iterator[Row]:
    """One layer of pixel tokens with D = 8 from file to overlays."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), 1)
        picture = next(Path(folder).rglob("*.jpg"))
        line = f"show {picture} -m random --tokens pixels --size {plan.side} --fit squash"
        line += f" --features 64 --heads 8 --device {plan.device} -o {folder}/out --quiet"
        call = call_of(plan, (1, 8, plan.side**2), 8, torch.float32)

        def shown() -> None:
            with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
                assert attnviz_command(line.split()) == 0

        taken = seconds(
            replace(plan, rounds=1),
            {
                "fused": lambda: F.scaled_dot_product_attention(call.query, call.key, call.value),
                "show": shown,
            },
        )
        yield {"tokens": plan.side**2, "D": 8} | beside(taken, "fused")


SECTIONS = {each.__name__: each for each in (exactness, table, record, batch, show)}


def beside(taken: dict[str, float], one: str) -> Row:
    """Milliseconds, and ratios to one of the ways."""
    row: Row = {f"{way} ms": 1e3 * each for way, each in taken.items()}
    return row | {f"{way} / {one}": each / taken[one] for way, each in taken.items() if way != one}


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def machine(plan: Plan) -> Row:
    """What the figures were seen on."""
    card = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "no card"
    some = call_of(plan, (1, 1, 16), 16, torch.float32)
    return {
        "device": str(plan.device),
        "card": card,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "attnviz": attnviz.__version__,
        "kernel": kernel.missing(some) or "serves",
    }


def said(row: Row) -> str:
    """A row as a line."""
    return "  " + ", ".join(
        f"{key} {each:.3g}" if isinstance(each, float) else f"{key} {each}"
        for key, each in row.items()
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print as it goes, and write JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    plan = Plan(device, 60 * given.minutes, **QUICK if given.quick else {})  # type: ignore[arg-type]
    start = time.monotonic()
    found: dict[str, Any] = {"machine": machine(plan)}
    print(said(found["machine"]).strip(), flush=True)
    for section in given.only:
        print(section, flush=True)
        found[section] = []
        rows = SECTIONS[section](plan)
        while time.monotonic() - start < plan.seconds and (row := next(rows, None)):
            found[section].append(row)
            print(said(row), flush=True)
        if time.monotonic() - start >= plan.seconds:
            print("  left out from here on: --minutes", flush=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - start:.0f} s; {given.json}")


if __name__ == "__main__":
    main()
