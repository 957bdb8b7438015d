"""What records are made of: numbers that JSON can hold, and parts of declared fields."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


def _tidy(value: float | None) -> float | None:
    """Eight significant digits, more than float32 holds; what is not a number is null."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.8g}")


Number = Annotated[float, BeforeValidator(_tidy)]
"""A number that is always there."""
Maybe = Annotated[float | None, BeforeValidator(_tidy)]
"""A number that is null where it is not defined, as 0/0."""

Count = Annotated[float | None, AfterValidator(lambda n: None if n is None else int(n))]
"""A number of things, which came as one of many floats."""


class RecordPart(BaseModel):
    """What records are made of: it does not change, and has no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SummaryRow(RecordPart):
    """A row about many pictures, under a schema of its own; its numbers have a mean and more."""

    schema_: str

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first."""
        data = self.model_dump()
        return {"schema": data.pop("schema_"), **data}

    def _flat(self, numbers: str, kind: type[RecordPart]) -> dict[str, Any]:
        """A field of numbers as columns: the mean by the number's own name, else `auc_low`."""
        data = self.model_dump(exclude={"schema_", numbers})
        for name, value in getattr(self, numbers).items():
            for part in kind.model_fields:
                column = name if part == "mean" else f"{name}_{part}"
                data[column] = None if value is None else getattr(value, part)
        return data
