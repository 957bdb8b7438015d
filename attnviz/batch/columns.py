"""Writes records as columns: a Parquet file of one row per head (extra `attnviz[parquet]`)."""

import itertools
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from attnviz.batch.finalizers import STATS, each
from attnviz.errors import MissingExtraError
from attnviz.output import whole_files
from attnviz.output.records import LISTS, OF_VIEWS, Head, Record
from attnviz.output.schema import flat
from attnviz.statistics import MORE, STATISTICS

NAME = "stats.parquet"
BEFORE: dict[str, type] = {
    "image": str, "prompt": str, "model": str, "weights": str, "method": str,
}  # fmt: skip
"""The first columns: the picture and the run; those of an entry of `heads` follow."""
_OF_THE_MODEL = {"model": "spec", "weights": "weights"}
_WHOLE = [name for name, entry in MORE.items() if entry.whole]
_WHOLE += [name for name, entry in STATISTICS.items() if entry.whole]
_ROWS = 65_536  # rows of a row group; memory holds one group at a time


def columns() -> dict[str, type]:
    """Names and types of all columns: picture and run first, then the columns of `stats.csv`.

    All batches have the same columns, so that files of several batches can be read together; a
    value that does not apply is null. If an entry has no `query` or `target`, it takes those of its
    record.
    """
    return BEFORE | _of_model(Head)


def require_pyarrow() -> Any:
    """The library pyarrow.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 — an optional part
    except ImportError as error:
        raise MissingExtraError(NAME, "parquet") from error
    return pa


def write_columns(out: Path, stats: Path, manifest: Path) -> list[Path]:  # noqa: ARG001 — a finalizer
    """Call `write_parquet` as a finalizer of a batch."""
    return [write_parquet(out, stats)]


def write_parquet(out: Path, stats: Path | None = None) -> Path:
    """Write `stats.parquet` of a batch beside its records; equal records give equal bytes.

    Records are read one after the other; memory holds one row group at a time.

    >>> from pyarrow import parquet
    >>> parquet.read_table(write_parquet(Path("OUT"))).num_rows       # a head each
    8

    Args:
        out: the folder of the batch.
        stats: the records; by default `stats.jsonl` in the folder.

    Raises:
        MissingExtraError: pyarrow is not installed.
        OutputError: the records cannot be read, or the file cannot be written.
    """
    pa = require_pyarrow()
    from pyarrow import parquet  # noqa: PLC0415

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns().items()])
    path = out / NAME
    with (
        whole_files.writing(path) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        for group in _groups(stats or out / STATS):
            file.write_table(pa.Table.from_pydict(group, schema=schema))
    return path


def _groups(stats: Path) -> Iterator[dict[str, list[Any]]]:
    """Columns in groups of `_ROWS` rows; the last group may be smaller."""
    group: dict[str, list[Any]] = {name: [] for name in columns()}
    rows = 0
    for row in itertools.chain.from_iterable(each(stats, _rows)):
        for name, values in group.items():
            values.append(row.get(name))
        rows += 1
        if rows % _ROWS == 0:
            yield group
            group = {name: [] for name in group}
    if rows % _ROWS:
        yield group


def _rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one record: flat entries of `heads`."""
    prompt = (record.get("text") or {}).get("prompt")
    run = {"image": record["image"]["path"], "prompt": prompt, "method": record["method"]}
    run |= {name: record["model"][key] for name, key in _OF_THE_MODEL.items()}
    question = {key: record[key] for key in ("query", "target") if record.get(key)}
    heads = [{**(head.get("moment") or {}), **head} for head in record["heads"]]
    return [{**run, **flat({**question, **head})} for head in heads]


def rows_of(record: Record) -> list[dict[str, Any]]:
    """A row per map with the columns of `stats.parquet`; a frame's number and time come first.

    The columns are the same for all methods, so that records of several methods share one header.
    """
    data = record.data()
    moment = {name: data["moment"][name] for name in ("frame", "time")} if record.moment else {}
    rows = _rows(data)
    of_views = [name for name in ("frame", "time", "view", "view_mass") if name in rows[0]]
    return [
        {
            "image": row["image"],
            **moment,
            **{name: row[name] for name in of_views},
            **{name: row.get(name) for name in columns()},
        }
        for row in rows
    ]


def _of_model(model: type[BaseModel], prefix: str = "") -> dict[str, type]:
    """The columns of a part of the record, from the annotations of its fields."""
    found: dict[str, type] = {}
    for name, field in model.model_fields.items():
        if name in (*LISTS, *OF_VIEWS):
            continue
        kind = _plain(field.annotation, whole=name in _WHOLE)
        if issubclass(kind, BaseModel):
            found |= _of_model(kind, f"{prefix}{name}_")
        else:
            found[prefix + name] = kind
    return found


def _plain(annotation: Any, *, whole: bool) -> type:
    """The plain type inside `Literal`, `Annotated` and `| None`."""
    if whole:
        return int
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return str
    if origin is typing.Annotated:
        return _plain(typing.get_args(annotation)[0], whole=False)
    if origin in (typing.Union, types.UnionType):
        (only,) = (each for each in typing.get_args(annotation) if each is not type(None))
        return _plain(only, whole=False)
    assert isinstance(annotation, type)
    return annotation
