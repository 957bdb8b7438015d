"""What a record says, and what it leaves out."""

import csv
import io
import json
import math
from typing import Any

import pytest

from attnviz.output import encoding, record_parts, records
from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS

NUMBERS = {
    "entropy": 1.0,
    "entropy_ratio": 0.5,
    "confidence": 0.1,
    "distance_px": 3.0,
    "prefix_mass": 0.0,
    "sink_mass": 0.2,
}
FURTHER = {
    "head_cosine": 0.25,
    "head_jensen_shannon": 0.5,
    "value_distance_px": math.nan,
    "sinks": 2.0,
    "importance": 0.125,
}
MAP = records.MapInfo(minimum=0, maximum=1, entropy=1, peak_x=1, peak_y=1, area60=0.1)
QUERY = record_parts.QueryInfo(kind="mean")


def head(number: int = 0, numbers: dict[str, float] | None = None) -> records.Head:
    given: dict[str, Any] = {**NUMBERS, **(numbers or {})}
    return records.Head(layer=3, head=number, **given, rows=2, columns=3, map=MAP)


def record(*heads: records.Head, **more: Any) -> records.Record:
    return records.Record(
        image=record_parts.Image(path="a.png", width=6, height=4),
        model=record_parts.ModelInfo(
            spec="tiny", weights="pretrained", layers=6, heads=2, device="cpu", dtype="float32",
            features=None, seed=None,
        ),
        tokens=record_parts.Tokens(
            kind="patches", rows=2, columns=3, patch=2, cell_width=2, cell_height=2, prefix=1,
            input_width=6, input_height=4, fit="keep", masked=0,
        ),
        query=QUERY,
        method="attention",
        check=record_parts.Check(verified=True, max_error=0),
        heads=list(heads),
        **more,
    )  # fmt: skip


def layer(**more: Any) -> records.LayerInfo:
    sinks = [
        records.Sink(head=1, token=0, kind="cls", received=0.3),
        records.Sink(head=1, token=4, kind="cell", x=1, y=3, received=0.2, window=2),
    ]
    return records.LayerInfo(
        layer=3,
        cosine=[[1, math.nan], [math.nan, 1]],
        jensen_shannon=[[0, 0.5], [0.5, 0]],
        sinks=sinks,
        **more,
    )


def test_the_record_declares_the_numbers_of_the_tables_in_their_order() -> None:
    fields = list(records.Head.model_fields)
    assert fields[2:13] == [*NUMBERS, *FURTHER] == [*STATISTICS, *MORE]
    of_sounds = ["peak_time", "peak_frequency"]
    of_objects = ["object_mass", "object_distance", "object_peak_distance"]
    assert list(records.MapInfo.model_fields) == [*MAP_NUMBERS, *of_sounds, *of_objects]


def test_a_plain_record_has_none_of_the_further_parts() -> None:
    data = record(head()).data()
    assert "layers" not in data
    fields = {"layer", "head", "kind", "sums_to_one", "rows", "columns", "map", *NUMBERS}
    assert set(data["heads"][0]) == fields


def test_further_numbers_are_there_where_given_and_null_where_not_defined() -> None:
    data = record(head(0, FURTHER)).data()["heads"][0]
    assert {name: data[name] for name in MORE} == FURTHER | {"value_distance_px": None}
    assert isinstance(data["sinks"], int)


def test_rows_have_the_same_columns_and_nothing_of_layers() -> None:
    found = record(head(0, FURTHER), head(1, FURTHER), layers=[layer()])
    rows = list(csv.DictReader(io.StringIO(encoding.as_csv(found.rows()))))
    assert set(rows[0]) == set(rows[1]) >= set(MORE)
    assert "layers" not in rows[0]
    assert rows[1]["importance"] == "0.125"


def test_layers_say_what_applies() -> None:
    data = record(head(), layers=[layer()]).data()["layers"]
    assert json.loads(json.dumps(data, allow_nan=False)) == [
        {
            "layer": 3,
            "cosine": [[1, None], [None, 1]],
            "jensen_shannon": [[0, 0.5], [0.5, 0]],
            "sinks": [
                {"token": 0, "kind": "cls", "head": 1, "received": 0.3},
                {"token": 4, "kind": "cell", "window": 2, "x": 1, "y": 3, "head": 1,
                 "received": 0.2},
            ],
        }
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [[], [records.HighNormToken(token=7, kind="other", norm=90)]])
def test_norms_are_told_where_tokens_were_kept(tokens: list[records.HighNormToken]) -> None:
    data = layer(high_norm=tokens, norm_median=10, norm_limit=20).data()
    assert (data["norm_median"], data["norm_limit"]) == (10, 20)
    assert data["high_norm"] == [{"token": 7, "kind": "other", "norm": 90} for _ in tokens]
