import csv
import io
import json
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

import attnviz
from attnviz.comparison.compare import Comparison
from attnviz.comparison.comparison_pictures import (
    ComparisonDrawing,
    differences,
    overlays,
    write_arrays,
    write_comparison,
)
from attnviz.io.picture import Picture

PICTURE = Picture("noise.png", np.asarray(pictures.noise(90, 60)))


def comparison(*seeds: int, fits: str = "") -> Comparison:
    """A side for each seed; that of a `c` in `fits` saw the centre alone."""
    found = []
    for seed, fit in zip(seeds, fits.ljust(len(seeds)), strict=True):
        model = attnviz.load_model("random", heads=2, size=48, patch=8, seed=seed)
        seen = attnviz.observe(PICTURE, model, fit="crop" if fit == "c" else "keep")
        found.append(attnviz.explain(seen))
    return attnviz.compare(*found)


def test_pictures_have_exactly_the_size_of_the_photograph() -> None:
    both = comparison(0, 1, fits=" c")
    for image in (*overlays(both), *differences(both).values()):
        assert image.size == (90, 60)


def test_where_sides_are_alike_the_middle_of_the_colours_lies_on_grey() -> None:
    same = comparison(0, 0)
    (image,) = differences(same, ComparisonDrawing(alpha=1.0)).values()
    colours = np.unique(np.asarray(image).reshape(-1, 3), axis=0)
    assert len(colours) == 1
    assert np.ptp(colours.astype(int)) <= 2  # RdBu_r is white there, and a little grey
    assert colours.min() > 240
    (image,) = differences(same, ComparisonDrawing(alpha=0.0)).values()
    grey = np.asarray(PICTURE.image().convert("L"))
    assert (np.asarray(image) == grey[..., None]).all()


def test_what_a_side_has_beyond_the_first_is_red_and_what_it_lacks_blue() -> None:
    both = comparison(0, 1)
    (image,) = differences(both, ComparisonDrawing(alpha=1.0, interpolation="nearest")).values()
    red, _, blue = np.moveaxis(np.asarray(image).astype(int), 2, 0)
    less, cells = both.difference(1), both.sides[0].placement
    for row, column in np.argwhere(abs(less) > 0.1):
        x, y = cells.visible_centre(row, column)
        assert (red > blue)[int(y), int(x)] == (less[row, column] > 0)


def test_what_one_did_not_see_is_hatched_in_both_orders() -> None:
    for fits in ("c ", " c"):
        both = comparison(0, 1, fits=fits)
        (image,) = differences(both).values()
        pixels = np.asarray(image)
        assert (pixels[:, :12] == pixels[:, :12, :1]).all()
        assert (pixels[:, 25:65] != pixels[:, 25:65, :1]).any()


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_files_are_what_the_record_says(tmp_path: Path, kind: str) -> None:
    three = comparison(0, 1, 2)
    record, paths, sheet = write_comparison(three, tmp_path, ComparisonDrawing(format=kind))
    assert [path.name for path in paths] == [
        *(f"compare-{number}.{kind}" for number in range(3)),
        *(f"difference-{number}.{kind}" for number in (1, 2)),
        "compare.json", "compare.csv", f"compare.{kind}",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert json.loads((tmp_path / "compare.json").read_text()) == record.data()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "compare.csv").read_text())))
    assert [(row["first"], row["second"], row["file"]) for row in rows] == [
        ("0", "1", f"difference-1.{kind}"), ("0", "2", f"difference-2.{kind}"), ("1", "2", ""),
    ]  # fmt: skip
    with Image.open(tmp_path / f"compare.{kind}") as written:
        assert written.size == sheet.size


def test_the_record_says_null_where_a_number_is_not_defined(tmp_path: Path) -> None:
    weights = pictures.uniform_layer(tmp_path / "flat.safetensors")
    flat = attnviz.load_model("random", heads=2, size=48, patch=8, weights=str(weights))
    maps = attnviz.explain(attnviz.observe(PICTURE, flat))
    both = attnviz.compare(maps, maps)
    record, *_ = write_comparison(both, tmp_path / "out", ComparisonDrawing())
    (pair,) = record.data()["pairs"]
    numbers = {"spearman": None, "pearson": None, "jaccard60": None}
    assert pair == {"first": 0, "second": 1, **numbers, "cells": 35, "file": "difference-1.png"}
    assert record.data()["sides"][0]["model"]["weights"] == str(weights)


def test_fewer_sides_leave_nothing_of_more_and_nothing_else_is_touched(tmp_path: Path) -> None:
    foreign = ["compare-9.png", "difference-1.gif", "sheet.png", "notes.txt"]
    for name in foreign:
        (tmp_path / name).touch()
    write_comparison(comparison(0, 1, 2), tmp_path, ComparisonDrawing())
    write_arrays(comparison(0, 1, 2), tmp_path)
    _, paths, _ = write_comparison(comparison(0, 1), tmp_path, ComparisonDrawing(format="webp"))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*foreign, *(path.name for path in paths)])


def test_arrays_are_what_is_compared(tmp_path: Path) -> None:
    both = comparison(0, 1, fits=" c")
    with np.load(write_arrays(both, tmp_path)) as arrays:
        np.testing.assert_array_equal(arrays["maps"], both.maps)
        np.testing.assert_array_equal(arrays["drawn"], both.drawn)
        np.testing.assert_array_equal(arrays["spearman"], both.matrix())
        assert not arrays["differences"][0].any()
        np.testing.assert_array_equal(arrays["differences"][1], both.difference(1))


def test_more_than_six_sides_go_on_in_further_rows(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 6, 7):
        _, _, sheet = write_comparison(comparison(*range(count)), tmp_path, ComparisonDrawing())
        sizes.append(sheet.size)
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]
    assert sizes[0][0] < sizes[1][0] == sizes[2][0]


def test_the_sheet_has_a_bar_of_each_kind_of_colours(tmp_path: Path) -> None:
    _, _, sheet = write_comparison(comparison(0, 1), tmp_path, ComparisonDrawing())
    pixels = np.asarray(sheet)
    for style in ComparisonDrawing().styles():
        for end in (style.colours[0], style.colours[-1]):
            assert (pixels == end).all(-1).sum() >= 8


def test_a_colour_map_that_is_none_is_named_with_its_option() -> None:
    with pytest.raises(attnviz.AttnvizError, match="--diverging 'Rosy' is none"):
        ComparisonDrawing(diverging="Rosy").styles()
