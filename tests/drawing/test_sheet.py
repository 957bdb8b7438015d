from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image
from rich.console import Console

import attnviz
from attnviz.cli.console import for_terminal
from attnviz.drawing.overlay import colour_table
from attnviz.drawing.panels import thumbnail
from attnviz.drawing.scale import Range
from attnviz.drawing.sheet import Cell, bar_label, compose, shortened
from attnviz.output.write_pictures import write_pictures


@pytest.mark.parametrize("size", [(1, 1), (10000, 3), (3, 10000), (451, 300), (20, 30)])
def test_thumbnails_have_one_longest_side_and_no_empty_one(size: tuple[int, int]) -> None:
    small = thumbnail(Image.new("RGB", size))
    assert max(small.size) == 256
    assert min(small.size) >= 1


def test_every_cell_is_in_the_sheet_with_its_own_colour_bar() -> None:
    colours = ["red", "lime", "blue", "yellow", "cyan"]
    cells = [
        Cell(Image.new("RGB", (256, 100), colour), f"head {i}", Range("head", 0, i + 1))
        for i, colour in enumerate(colours)
    ]
    table = colour_table("viridis")
    original = Cell(Image.new("RGB", (256, 100), "magenta"), "original")
    sheet = np.asarray(compose(original, cells, table, title="all of them"))
    for cell in (original, *cells):
        colour = np.array(cell.thumbnail.getpixel((0, 0)))
        assert (sheet == colour).all(-1).sum() >= 256 * 100
    for end in (table[0], table[-1]):
        assert (sheet == end).all(-1).sum() >= len(cells) * 8


def test_titles_that_are_too_long_or_odd_do_not_break_it() -> None:
    cell = Cell(Image.new("RGB", (256, 10)), "x" * 900 + "\n\x1b[31m")
    sheet = compose(cell, [cell], colour_table("viridis"), title="\U0001f408" * 900)
    assert sheet.width < 800


def test_with_columns_the_original_has_a_row_of_its_own() -> None:
    original = Cell(Image.new("RGB", (200, 100), "red"), "original")
    cells = [Cell(Image.new("RGB", (200, 100), "blue"), str(i)) for i in range(6)]
    sheet = np.asarray(compose(original, cells, colour_table("viridis"), title="", columns=3))
    rows = [
        np.flatnonzero((sheet == colour).all(-1).any(1)) for colour in ((255, 0, 0), (0, 0, 255))
    ]
    assert rows[0].max() < rows[1].min()
    columns = np.flatnonzero((sheet == (0, 0, 255)).all(-1).any(0))
    assert len(columns) == 3 * 200


def test_the_original_comes_first_with_the_query_marked(tmp_path: Path) -> None:
    Image.new("RGB", (128, 96), (10, 120, 30)).save(tmp_path / "plain.png")
    seen = attnviz.observe(
        attnviz.load_image(tmp_path / "plain.png"), attnviz.load_model("random", heads=2)
    )
    for query in ("40,50", "20,20,90,70"):
        answer = attnviz.explain(seen, query=query)
        _, paths, sheet = write_pictures(answer, tmp_path / "out", attnviz.Drawing())
        assert [path.name for path in paths] == [
            "layer00-head00.png", "layer00-head01.png", "stats.json", "stats.csv", "sheet.png",
        ]  # fmt: skip
        assert (np.asarray(sheet) == (10, 120, 30)).all(-1).sum() > 30_000
        overlay = attnviz.render(answer)[0, 1]
        with Image.open(tmp_path / "out" / "layer00-head01.png") as written:
            assert (np.asarray(written) == np.asarray(overlay)).all()


def test_the_terminal_picture_fits_its_window() -> None:
    console = Console(width=200, force_terminal=True, color_system="truecolor", record=True)
    with console.capture():
        console.print(for_terminal(pictures.noise(900, 500), columns=80, lines=20))
    lines = console.export_text().rstrip("\n").split("\n")
    assert len(lines) <= 20
    assert max(len(line.rstrip()) for line in lines) <= 80


@pytest.mark.parametrize(
    ("scale", "label"),
    [
        (Range("head", 0.0004, 0.031), "0.0004 … 0.031"),
        (Range("log", 0.0004, 0.031), "0.0004 … 0.031 (log)"),
        (Range("head", 0.01401, 0.01404), "0.01401 … 0.01404"),
        (Range("all", 0.0140001, 0.0140002), "0.014 everywhere"),
        (Range("fixed", 0.0, 1.0), "0 … 1"),
    ],
)
def test_the_ends_of_a_bar_are_told_apart(scale: Range, label: str) -> None:
    assert bar_label(scale) == label


def test_a_long_path_leaves_room_for_the_query() -> None:
    assert shortened("dinov2-small") == "dinov2-small"
    path = "/data/experiments/checkpoints/run-17/" + "x" * 12
    assert shortened(path) == f"…{path[-32:]}"
