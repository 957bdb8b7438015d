"""The building blocks of records: numbers that JSON can hold, and classes of declared fields."""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, create_model

from attnviz.registry import TableEntry


def _tidy(value: float | None) -> float | None:
    """A number to eight significant digits, more than float32 holds; NaN and ±∞ become null."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.8g}")


Number = Annotated[float, BeforeValidator(_tidy)]
"""A number that is always present."""
Maybe = Annotated[float | None, BeforeValidator(_tidy)]
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
