"""Records and folders that a batch could have left."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnviz.output import record_parts, records

LAYERS, HEADS = (3, 5), (0, 1, 2)


def head(layer: int, number: int | None, rng: np.random.Generator, **more: Any) -> records.Head:
    names = ("entropy", "entropy_ratio", "confidence", "distance_px", "prefix_mass", "sink_mass")
    merged = number is None
    of_head: dict[str, Any] = {} if merged else {name: float(rng.gamma(2.0)) for name in names}
    if of_head and rng.random() < 0.2:
        of_head["distance_px"] = None
    low, high, entropy, area = (float(value) for value in rng.random(4))
    peak_x, peak_y = (float(value) for value in rng.integers(0, 60, 2))
    of_map = records.MapInfo(
        minimum=low, maximum=high, entropy=entropy, peak_x=peak_x, peak_y=peak_y, area60=area
    )
    given = {**of_head, **more}
    return records.Head(layer=layer, head=number, rows=2, columns=3, map=of_map, **given)


def record(path: str, heads: Sequence[records.Head], **more: Any) -> records.Record:
    given = {"method": "attention", "query": record_parts.QueryInfo(kind="cls"), **more}
    return records.Record(
        image=record_parts.Image(path=path, width=60, height=40),
        model=record_parts.ModelInfo(
            spec="tiny", weights="pretrained", layers=6, heads=3, device="cpu", dtype="float32",
            features=None, seed=None,
        ),
        tokens=record_parts.Tokens(
            kind="patches", rows=2, columns=3, patch=20, cell_width=20, cell_height=20,
            prefix=1, input_width=60, input_height=40, fit="keep", masked=0,
        ),
        check=record_parts.Check(verified=True, max_error=1e-7),
        heads=list(heads),
        **given,
    )  # fmt: skip


def several(
    paths: Sequence[str], *, seed: int = 0, layers: Sequence[int] = LAYERS,
    heads: Sequence[int | None] = HEADS, files: bool = False,
) -> Iterator[records.Record]:  # fmt: skip
    """A record for every path, of numbers drawn at random."""
    rng = np.random.default_rng(seed)
    for path in paths:
        yield record(path, [
            head(layer, each, rng, **({"file": name_of(layer, each)} if files else {}))
            for layer in layers
            for each in heads
        ])  # fmt: skip


def name_of(layer: int, number: int | None) -> str:
    return f"layer{layer:02}.png" if number is None else f"layer{layer:02}-head{number:02}.png"


def write_lines(path: Path, lines: Iterator[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line) + "\n")
    return path


def stats(out: Path, found: Sequence[records.Record]) -> Path:
    return write_lines(out / "stats.jsonl", (each.data() for each in found))


def batch(
    out: Path, names: Sequence[str], *, failed: Mapping[str, str] | None = None,
    drawn: bool = True, root: str = "", written: str | None = None,
) -> list[records.Record]:  # fmt: skip
    """A folder as a batch leaves it: records, a manifest, a sheet and overlays of every picture.

    Args:
        out: the folder.
        names: of the pictures that are done, below `root`.
        failed: names and errors of those that are not.
        drawn: whether there are pictures.
        root: what the paths of records begin with.
        written: the name of the only picture in the manifest, where it is not as the system's.
    """
    names = sorted(names)
    found = list(several([root + (written or as_text(name)) for name in names], files=drawn))
    stats(out, found)
    lines: list[dict[str, Any]] = [
        {"path": written or name, "status": "done", "error": None,
         "folder": (written or name) if drawn else None}
        for name in names
    ]  # fmt: skip
    lines += [
        {"path": name, "status": "failed", "error": error, "folder": None}
        for name, error in (failed or {}).items()
    ]
    write_lines(out / "manifest.jsonl", iter(sorted(lines, key=lambda line: str(line["path"]))))
    for i, name in enumerate(names if drawn else ()):
        (out / name).mkdir(parents=True)
        Image.new("RGB", (640, 320), (40, 10 * i % 256, 90)).save(out / name / "sheet.png")
        for layer in LAYERS:
            for each in HEADS:
                overlay = Image.new("RGB", (300, 200), (10 * i % 256, 40 * each, 20 * layer))
                overlay.save(out / name / name_of(layer, each))
    return found


def as_text(name: str) -> str:
    """A name as records have it: text, whatever its bytes are."""
    return os.fsencode(name).decode("utf-8", "replace")
