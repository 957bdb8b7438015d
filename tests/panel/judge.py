"""What the command line says of a model, beside what is true of it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnviz.cli import main
from panel.truth import Array, Case, Layer, true_map


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Noise in which no two patches are alike, (height, width, 3)."""
    rng = np.random.default_rng(width * 1000 + height)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(width: int, height: int) -> Tensor:
    """The same as a model of `py:` is given it, which says nothing of mean and deviation."""
    values = torch.from_numpy(picture(width, height)).float() / 255
    return ((values - 0.5) / 0.5).permute(2, 0, 1)[None]


@dataclass(frozen=True)
class Said:
    """One run of the command line: its streams, record and arrays."""

    code: int
    errors: str
    record: dict[str, Any]
    arrays: dict[str, Any]


@dataclass(frozen=True)
class CommandLine:
    """Runs commands on a picture that is as large as the input, and reads what they give."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    command: str = "stats"

    def ask(self, spec: str, case: Case, queries: Sequence[str], layers: str) -> Said:
        """`attnviz stats … --json --npz` with these queries of these layers."""
        width, height = case.size
        file, out = self.folder / "picture.png", self.folder / "out"
        Image.fromarray(picture(width, height)).save(file)
        words = [self.command, str(file), "-m", spec, "--layers", layers, "--json", "--npz"]
        words += ["-o", str(out), "--patch", str(case.patch)]
        self.capsys.readouterr()
        code = main([*words, *(word for query in queries for word in ("-q", query))])
        printed, errors = self.capsys.readouterr()
        if code:
            return Said(code, errors, {}, {})
        with np.load(out / file.name / "maps.npz") as arrays:
            return Said(code, errors, json.loads(printed), dict(arrays))


Truth = Sequence[tuple[Layer, Array]]
"""Every attention call of a model, with its weights (windows, heads, queries, keys)."""


def judge(said: Said, truth: Truth, queries: tuple[str, ...], layers: str) -> str:
    """What came out, see `Case.may_be`; fails where it is wrong and nothing says so."""
    if said.code:
        lines = said.errors.strip().splitlines()
        assert lines, "an exit code without a word"
        assert "error: " in lines[-1], said.errors
        assert "fault of attnviz" not in lines[-1], lines[-1]
        return f"refused: {lines[-1]}"
    check = said.record["check"]
    numbers = range(len(truth)) if layers == "all" else [int(n) for n in layers.split(",")]
    drawn = [int(number) for number in said.arrays["layers"]]
    reasons = {each["layer"]: each["reason"] for each in check.get("not_drawn", [])}
    listed = f"layers drawn {drawn}, not drawn {reasons}, of {len(truth)} in truth"
    assert set(drawn) <= set(numbers), listed
    if check.get("places") != "assumed":
        for number in drawn:
            _check_layer(said, number, *truth[number], queries)
    missing = [number for number in numbers if number not in drawn]
    silent = [number for number in missing if not reasons.get(number)]
    assert not silent, f"vanished without a word: layers {silent}; {listed}"
    if check.get("places") == "assumed":
        return "assumed"
    lost = [number for number in missing if truth[number][0].can_be_drawn]
    return f"not drawn: {[reasons[number] for number in lost]}" if lost else "right"


def _check_layer(
    said: Said, number: int, layer: Layer, weights: Array, queries: tuple[str, ...]
) -> None:
    """Maps, heads, grid and peaks of a layer are the true ones, or this fails."""
    maps = _maps(said, number, len(queries))  # (queries, heads, rows, columns)
    assert layer.can_be_drawn, f"layer {number} is drawn and has no place in the picture"
    expected = np.stack([true_map(query, layer, weights) for query in queries])
    asked = said.arrays.get("queries", said.record["query"]["kind"])
    message = f"layer {number}: {maps.shape}, not {expected.shape}, answering {asked}"
    assert maps.shape == expected.shape, message
    for query, found, wanted in zip(queries, maps, expected, strict=True):
        error = np.abs(found - wanted).max() / wanted.max()
        assert error < 1e-5, f"layer {number}, query {query}: off by {error:.2g} of the maximum"
    cells = layer.cells[layer.cells >= 0] if layer.made is None else layer.made.nonzero()[1]
    empty = np.bincount(cells, minlength=layer.rows * layer.columns) == 0
    name = "drawn" if "maps" in said.arrays else f"layer{number:02d}_drawn"
    shown = said.arrays[name].ravel()[empty]
    assert not shown.any(), f"layer {number}: {shown.sum()} cells are drawn that have no token"
    _check_record(said, number, layer, weights, queries)


def _maps(said: Said, number: int, queries: int) -> Array:
    arrays = said.arrays
    if "maps" in arrays:
        index = list(arrays["layers"]).index(number)
        maps = np.moveaxis(arrays["maps"], -4, 0)[index]
    else:
        maps = arrays[f"layer{number:02d}"]
    return np.asarray(maps[None] if queries == 1 else maps, dtype=np.float64)


def _check_record(
    said: Said, number: int, layer: Layer, weights: Array, queries: tuple[str, ...]
) -> None:
    """Rows, columns and peaks; a peak may lie half a cell from the centre of what a token sees."""
    heads = [head for head in said.record["heads"] if head["layer"] == number]
    heads_of = weights.shape[1]
    assert len(heads) == len(queries) * heads_of, f"layer {number}: {len(heads)} maps in the record"
    for i, head in enumerate(heads):
        query, of = queries[i // heads_of], i % heads_of
        assert head["head"] == of
        assert (head["rows"], head["columns"]) == (layer.rows, layer.columns)
        wanted = true_map(query, layer, weights)[of]
        row, column = np.unravel_index(wanted.argmax(), wanted.shape)
        for axis, at, values in (("peak_x", column, layer.x), ("peak_y", row, layer.y)):
            half = np.diff(values).min() / 2 if len(values) > 1 else np.inf
            off = abs(head["map"][axis] - values[at])
            assert off <= half, f"layer {number}, query {query}: {axis} {off} pixels away"
