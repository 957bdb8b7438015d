"""The building blocks of records, and the records about many pictures.

These are `attnviz/aggregate/1`, of a batch, and `attnviz/evaluation/1`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, create_model

from attnviz.registry import TableEntry


def tidy(value: float | None) -> float | None:
    """A number to eight significant digits, more than float32 holds; NaN and ±∞ become null."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.8g}")


Number = Annotated[float, BeforeValidator(tidy)]
"""A number that is always present."""
Maybe = Annotated[float | None, BeforeValidator(tidy)]
"""A number that is null if it is not defined, such as 0/0."""

Count = Annotated[
    float | None, AfterValidator(lambda n: None if n is None or math.isnan(n) else int(n))
]
"""A whole number; it is computed as a float among others."""


class RecordPart(BaseModel):
    """A part of a record: it is frozen, and accepts no undeclared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Part = TypeVar("Part", bound=RecordPart)


def with_numbers(*tables: Mapping[str, TableEntry]) -> Callable[[type[Part]], type[Part]]:
    """Give a part of the record a field for each entry of the tables that it does not declare.

    These fields follow the declared ones. They are numbers (whole numbers if the entry says so),
    and null if they are not defined.

    >>> @with_numbers({"sharpness": TableEntry("math:sqrt", "…", "…")})
    ... class Map(RecordPart):
    ...     area60: Number
    >>> Map(area60=0.5, sharpness=2.0).model_dump()
    {'area60': 0.5, 'sharpness': 2.0}
    """

    def extend(part: type[Part]) -> type[Part]:
        fields: dict[str, Any] = {
            name: (Count if getattr(entry, "whole", False) else Maybe, None)
            for table in tables
            for name, entry in table.items()
            if name not in part.model_fields
        }
        if not fields:
            return part
        place: dict[str, Any] = {"__module__": part.__module__, "__doc__": part.__doc__}
        return create_model(part.__name__, __base__=part, **place, **fields)

    return extend


def without_missing(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Data without those parts in `names` that are null, and without null fields inside them."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in names and isinstance(value, dict):
            flat[key] = defined(value) if key in ("query", "target") else value
        elif key not in names or value is not None:
            flat[key] = value
    return flat


def defined(part: dict[str, Any]) -> dict[str, Any]:
    """The fields of a query or a target that are not null."""
    inner = {
        key: defined(value) if isinstance(value, dict) else value for key, value in part.items()
    }
    return {key: value for key, value in inner.items() if value is not None}


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parts as columns of their own: `map.peak_x` becomes `map_peak_x`."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}_")
        else:
            found[prefix + key] = value
    return found


class SummaryRow(RecordPart):
    """A row about many pictures, with its own schema; each number has a mean and a spread."""

    schema_: str

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first."""
        data = self.model_dump()
        return {"schema": data.pop("schema_"), **data}

    def _flat(self, numbers: str, kind: type[RecordPart]) -> dict[str, Any]:
        """A field of numbers as columns: `auc` is the mean, `auc_low` another of its values."""
        data = self.model_dump(exclude={"schema_", numbers})
        for name, value in getattr(self, numbers).items():
            for part in kind.model_fields:
                column = name if part == "mean" else f"{name}_{part}"
                data[column] = None if value is None else getattr(value, part)
        return data


class Spread(RecordPart):
    """One number over all pictures; `missing` counts the pictures where it is not defined."""

    mean: Number
    deviation: Number
    q05: Number
    q25: Number
    q50: Number
    q75: Number
    q95: Number
    missing: int


class AggregateRow(SummaryRow):
    """One head, or the merged heads of a method, over all pictures.

    `question` is the number of the query or target, from 0. `pictures` is the number of pictures
    that have this head. Localized heads differ from picture to picture: their rows have no `layer`
    and `head` but a `rank`, 1 for each picture's most localized head, 0 for the mean map.
    `statistics` has every number that any head has; a number is null if this head has none.
    """

    schema_: Literal["attnviz/aggregate/1"] = "attnviz/aggregate/1"
    model: str
    weights: str
    method: str
    question: int
    layer: int | None
    head: int | None
    rank: int | None = None
    pictures: int
    statistics: dict[str, Spread | None]

    def row(self) -> dict[str, Any]:
        """The row as flat columns: `entropy` is the mean, `entropy_q05` the quantile, and so on."""
        return self._flat("statistics", Spread)


class Interval(RecordPart):
    """A mean over pictures, and the ends of its 95 % bootstrap interval."""

    mean: Number
    low: Number
    high: Number


class EvaluationRow(SummaryRow):
    """One map of one model, or one of its baselines, over all pictures.

    `head` is the number of a head, `mean` for the mean of the heads, `best` for the best head of
    each object, `localized` for the mean of the most localized heads, `oracle` for each picture's
    best head by the metric, which only its mask can tell, or null if the method merges heads.
    `layer` is null if the map is the same for all layers, or of heads of several; then `mean` is
    the mean of the heads that localized ones are chosen from. `method` and `head` are null if no
    model made the map. A metric is null if it is not measured or not defined.
    """

    schema_: Literal["attnviz/evaluation/1"] = "attnviz/evaluation/1"
    model: str
    weights: str
    baseline: Literal["random weights", "gaussian", "saliency"] | None
    method: str | None
    layer: int | None
    head: int | Literal["mean", "best", "localized", "oracle"] | None
    pictures: int
    metrics: dict[str, Interval | None]

    def row(self) -> dict[str, Any]:
        """The row as flat columns: `auc` is the mean, `auc_low` and `auc_high` are the ends."""
        return self._flat("metrics", Interval)
