"""The building blocks of records: numbers that JSON can hold, declared fields, flat columns."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, create_model

from attnviz.registry import TableEntry


def tidy(value: float | None) -> float | None:
    """A number to eight significant digits, more than float32 holds; NaN and ±∞ become null."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.8g}")


Number = Annotated[float, BeforeValidator(tidy)]
"""A number that is always present."""
Maybe = Annotated[float | None, BeforeValidator(tidy)]
"""A number that is null if it is not defined, such as 0/0."""

Count = Annotated[float | None, AfterValidator(lambda n: None if n is None else int(n))]
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
