"""Aggregates against NumPy, which has all values at once."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from attnviz.batch import sketch as sketches
from attnviz.batch.aggregate import Aggregate, aggregate, write_aggregate
from attnviz.batch.aggregate_plot import draw
from attnviz.batch.sketch import QUANTILES, Sketch
from attnviz.cli.summary_tables import aggregate_tables
from attnviz.errors import OutputError
from attnviz.output.records import Record
from attnviz.output.schema import Spread


def fill(values: Any) -> Sketch:
    sketch = Sketch(columns=np.shape(values)[1])
    for row in values:
        sketch.add(row.tolist())
    return sketch


def oracle(records: list[Record], layer: int, head: int | None, name: str) -> dict[str, float]:
    """From flat rows, of all that is known."""
    rows = [row for each in records for row in each.rows()]
    found = [row[name] for row in rows if (row["layer"], row["head"]) == (layer, head)]
    known = np.array([value for value in found if value is not None], np.float64)
    ends = np.quantile(known, QUANTILES)
    names = ("q05", "q25", "q50", "q75", "q95")
    return {
        "mean": known.mean(), "deviation": known.std(), "missing": len(found) - len(known),
        **dict(zip(names, ends, strict=True)),
    }  # fmt: skip


def test_every_number_of_every_head_is_numpys(tmp_path: Path) -> None:
    records = list(folders.several([f"{i:03}.png" for i in range(57)]))
    found = aggregate(folders.stats(tmp_path, records))
    assert found.pictures == 57
    assert found.exact
    places = [(row.layer, row.head) for row in found.rows]
    assert places == [(layer, head) for layer in folders.LAYERS for head in folders.HEADS]
    for row in found.rows:
        assert row.pictures == 57
        assert row.layer is not None
        assert "sinks" not in row.statistics  # nobody gave it
        for name, spread in row.statistics.items():
            assert spread is not None
            wanted = oracle(records, row.layer, row.head, name)
            assert spread.model_dump() == pytest.approx(wanted, rel=1e-7)
    missing = [spread.missing for row in found.rows if (spread := row.statistics["distance_px"])]
    assert sum(missing) > 5


def test_merged_heads_have_numbers_of_maps_alone(tmp_path: Path) -> None:
    records = list(folders.several(["a.png", "b.png"], heads=[None]))
    row = aggregate(folders.stats(tmp_path, records)).rows[0]
    assert row.head is None
    assert {name[:4] for name in row.statistics} == {"map_"}


def test_questions_are_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    heads = [folders.head(0, each, rng) for _ in range(2) for each in (0, 1)]
    rows = aggregate(folders.stats(tmp_path, [folders.record("a.png", heads)])).rows
    assert [(row.question, row.head) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row, head in zip(rows, heads, strict=True):
        spread = row.statistics["map_entropy"]
        assert spread is not None
        assert spread.mean == head.map.entropy


def test_layers_that_only_some_pictures_have_count_those(tmp_path: Path) -> None:
    first = list(folders.several(["a.png", "b.png"], layers=[0]))
    more = list(folders.several(["c.png"], layers=[0, 1]))
    rows = aggregate(folders.stats(tmp_path, [*first, *more])).rows
    assert {row.layer: row.pictures for row in rows} == {0: 3, 1: 1}


@pytest.mark.parametrize("draw_of", ["lognormal", "normal", "integers", "ties"])
def test_of_more_than_are_kept_quantiles_are_within_their_error(
    draw_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketches, "EXACT", 512)
    rng = np.random.default_rng(1)
    values = {
        "lognormal": rng.lognormal(-4, 3, (5000, 1)),
        "normal": rng.normal(0, 1, (5000, 1)),
        "integers": rng.integers(0, 9, (5000, 1)).astype(np.float64),
        "ties": np.full((5000, 1), 0.1),
    }[draw_of]
    values[rng.random(5000) < 0.1] = np.nan
    known = values[~np.isnan(values)]
    (found,) = fill(values).summaries()
    assert (found.count, found.missing) == (len(known), 5000 - len(known))
    assert found.mean == pytest.approx(known.mean(), rel=1e-12)
    assert found.deviation == pytest.approx(known.std(), rel=1e-9, abs=1e-15)
    lower, upper = (np.quantile(known, QUANTILES, method=way) for way in ("lower", "higher"))
    room = 2.0**-10 * np.maximum(abs(lower), abs(upper))
    error = abs(np.array(found.quantiles) - np.quantile(known, QUANTILES))
    assert (error <= room).all()
    assert error.max() > 0 or draw_of == "ties"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_bucket_moves_a_value_by_no_more_than_it_says(value: float) -> None:
    number = np.array([value])
    middle = sketches._middle(sketches._bucket(number))[0]
    assert abs(middle - value) <= abs(value) * 2.0**-10 or abs(value) < 1e-307


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=30))
def test_buckets_are_in_the_order_of_values(values: list[float]) -> None:
    keys = sketches._bucket(np.sort(np.array(values)))
    assert (np.diff(keys) >= 0).all()


def test_what_is_kept_does_not_grow_with_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sketches, "EXACT", 256)
    rng = np.random.default_rng(0)
    sketch = fill(rng.uniform(0.5, 4, (20_000, 2)))
    assert len(sketch._pending) <= 256 * 2
    assert all(len(column._keys) <= 3 * 512 + 1 for column in sketch._columns)  # three octaves


def test_a_file_that_is_none_of_ours_is_told(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    with pytest.raises(OutputError, match="cannot be read"):
        aggregate(path)
    for text in ('{"schema"', "[]", "{}", '{"heads": 3}'):
        path.write_text(f"{text}\n", encoding="utf-8")
        with pytest.raises(OutputError, match="line 1 is no record"):
            aggregate(path)


def test_the_files_say_the_same_and_are_the_same_every_time(tmp_path: Path) -> None:
    records = list(folders.several(["a.png", "b.png", "c.png"]))
    rows = aggregate(folders.stats(tmp_path, records)).rows
    paths = write_aggregate(tmp_path)
    assert [path.name for path in paths] == ["aggregate.jsonl", "aggregate.csv", "aggregate.png"]
    lines = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert lines == [row.data() for row in rows]
    assert next(iter(lines[0])) == "schema"
    flat = list(csv.DictReader(io.StringIO(paths[1].read_text())))
    spread = rows[4].statistics["entropy"]
    assert spread is not None
    assert float(flat[4]["entropy"]) == spread.mean
    assert {f"entropy_{part}" for part in Spread.model_fields if part != "mean"} <= set(flat[0])
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_aggregate(tmp_path)] == before
    with Image.open(paths[2]) as image:
        assert image.format == "PNG"


def test_a_row_is_documented_field_by_field(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "batch.md"
    examples = re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = (each for each in examples if '"statistics"' in each)
    documented, real = json.loads(example), of(tmp_path).rows[0].data()
    assert list(documented) == list(real)
    for name, spread in documented["statistics"].items():
        assert list(spread) == list(real["statistics"][name])


def test_of_no_picture_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").touch()
    assert write_aggregate(tmp_path) == []
    assert aggregate(tmp_path / "stats.jsonl") == Aggregate((), 0)


def of(tmp_path: Path, **asked: Any) -> Aggregate:
    return aggregate(folders.stats(tmp_path, list(folders.several(["a.png", "b.png"], **asked))))


def test_the_plot_has_a_point_a_head_and_a_line_through_layers(tmp_path: Path) -> None:
    rows = of(tmp_path).rows
    distance, entropy = draw(rows).get_axes()
    for ax, name in ((distance, "distance_px"), (entropy, "entropy")):
        points, line = (np.asarray(each.get_xydata()) for each in ax.get_lines())
        means = [spread.mean for row in rows if (spread := row.statistics[name]) is not None]
        np.testing.assert_allclose(points[:, 1], means)
        np.testing.assert_allclose(np.rint(points[:, 0]), [3, 3, 3, 5, 5, 5])
        np.testing.assert_allclose(line, [(3, sum(means[:3]) / 3), (5, sum(means[3:]) / 3)])


@pytest.mark.parametrize(
    ("asked", "title", "label"),
    [
        ({"layers": [5]}, "mean attention distance", "head of layer 5"),
        ({"heads": [None]}, "area that holds 60 % of the map", "layer"),
    ],
)
def test_the_plot_shows_what_there_is(
    asked: dict[str, Any], title: str, label: str, tmp_path: Path
) -> None:
    ax = draw(of(tmp_path, **asked).rows).get_axes()[0]
    assert (ax.get_title(loc="left"), ax.get_xlabel()) == (title, label)


def test_tables_have_a_row_a_head(tmp_path: Path) -> None:
    found = of(tmp_path)
    (table,) = aggregate_tables(found)
    assert table.row_count == len(found.rows)
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    spread = found.rows[0].statistics["map_area60"]
    assert spread is not None
    assert f"{spread.mean:.3f}±{spread.deviation:.3f}".replace("0.", ".") in text
    assert "2 pictures" in text
    assert not math.isnan(spread.mean)
