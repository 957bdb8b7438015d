"""Parquet files, read back by whatever reads them, beside the records that they are made of."""

import sys
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pytest

from attnviz.batch import columns
from attnviz.batch.columns import write_parquet
from attnviz.errors import MissingExtraError, OutputError
from attnviz.output import record_parts, records
from attnviz.statistics import MORE

pa = pytest.importorskip("pyarrow", reason="pip install 'attnviz[parquet]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'attnviz[parquet]'")

FURTHER = {"head_cosine": 0.25, "head_jensen_shannon": 0.5, "value_distance_px": None, "sinks": 2}


def made() -> list[records.Record]:
    """Plain ones; and one that has all there is: several questions, targets, more statistics."""
    rng = np.random.default_rng(0)
    point = record_parts.QueryInfo(kind="point", x=3, y=4)
    target = record_parts.TargetInfo(kind="class", index=7, label='a "cat", or two', score=1.5)
    heads = [
        folders.head(2, 0, rng, query=point, target=target, importance=0.5, **FURTHER),
        folders.head(2, 1, rng, query=record_parts.QueryInfo(kind="cls"), target=target, **FURTHER,
                     scale=records.ScaleInfo(kind="head", minimum=0, maximum=1), file="x.png"),
    ]  # fmt: skip
    full = folders.record("z/ünï 🐈.png", heads, query=point, target=target)
    merged = folders.several(["b.png"], heads=[None])
    return [*folders.several(["a.png", "a/b.png"]), *merged, full]


def expected(found: list[records.Record]) -> list[dict[str, Any]]:
    """What the records' own rows say, with all columns, and with the record's own question."""
    rows = []
    for record in found:
        run = {
            "model": record.model.spec, "weights": record.model.weights, "method": record.method,
        }  # fmt: skip
        asked = {f"query_{key}": value for key, value in record.query.model_dump().items()}
        for row in record.rows():
            own = any(key.startswith("query_") for key in row)
            rows.append(dict.fromkeys(columns.columns()) | run | ({} if own else asked) | row)
    return rows


def test_it_reads_back_as_the_records(tmp_path: Path) -> None:
    found = made()
    folders.stats(tmp_path, found)
    path = write_parquet(tmp_path)
    assert path == tmp_path / "stats.parquet"
    table = pq.read_table(path)
    assert table.column_names == list(columns.columns())
    assert table.to_pylist() == expected(found)
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_columns_have_types(tmp_path: Path) -> None:
    folders.stats(tmp_path, [])
    schema = pq.read_schema(write_parquet(tmp_path))
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    whole = {"layer", "head", "sinks", "rows", "columns", "target_index", "query_number"}
    text = {"image", "model", "weights", "method", "query_kind", "target_label", "file"}
    assert {kinds[name] for name in whole} == {"int64"}
    assert {kinds[name] for name in text} == {"string"}
    numbers = {"entropy", "map_peak_x", "scale_minimum", "target_score", *MORE} - {"sinks"}
    assert {kinds[name] for name in numbers} == {"double"}
    assert pq.read_table(tmp_path / "stats.parquet").num_rows == 0


def test_row_groups_are_of_one_size_and_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_ROWS", 7)
    found = list(folders.several([f"{i}.png" for i in range(5)]))  # 30 rows
    folders.stats(tmp_path, found)
    path = write_parquet(tmp_path)
    meta = pq.ParquetFile(path).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [7, 7, 7, 7, 2]
    before = path.read_bytes()
    assert write_parquet(tmp_path).read_bytes() == before
    assert pq.read_table(path).to_pylist() == expected(found)


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_others_read_it_too(library: str, tmp_path: Path) -> None:
    module = pytest.importorskip(library)
    found = made()
    folders.stats(tmp_path, found)
    path = write_parquet(tmp_path)
    if library == "duckdb":
        names = ", ".join(f'"{name}"' for name in columns.columns())
        rows = module.sql(f"select {names} from '{path}'").fetchall()
        assert [dict(zip(columns.columns(), row, strict=True)) for row in rows] == expected(found)
    elif library == "polars":
        assert module.read_parquet(path).to_dicts() == expected(found)
    else:
        frame = module.read_parquet(path, dtype_backend="pyarrow")
        kept = frame.astype(object).where(frame.notna(), None)
        assert kept.to_dict("records") == expected(found)


def test_without_pyarrow_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'attnviz\[parquet\]'"):
        write_parquet(tmp_path)


def test_a_broken_line_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "stats.jsonl").write_text('{"image": {}}\n', encoding="utf-8")
    with pytest.raises(OutputError, match="line 1 is no record"):
        write_parquet(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["stats.jsonl"]
