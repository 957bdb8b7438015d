"""What is said of all pictures of a folder together: a row a head, schema `attnviz/aggregate/1`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from attnviz.records import Number


class Spread(BaseModel):
    """One number over the pictures; `missing` are those of which it is not defined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Number
    deviation: Number
    q05: Number
    q25: Number
    q50: Number
    q75: Number
    q95: Number
    missing: int


class AggregateRow(BaseModel):
    """One head, or the heads that a method merges, over all pictures.

    `question` counts from 0 where several queries or targets were asked; `pictures` are those that
    have this head. `statistics` has what is known of any head, null where it is not of this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["attnviz/aggregate/1"] = "attnviz/aggregate/1"
    model: str
    weights: str
    method: str
    question: int
    layer: int
    head: int | None
    pictures: int
    statistics: dict[str, Spread | None]

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first."""
        data = self.model_dump()
        return {"schema": data.pop("schema_"), **data}

    def row(self) -> dict[str, Any]:
        """Flat: the mean by the statistic's own name, the rest as `entropy_q05`."""
        data = self.model_dump(exclude={"schema_", "statistics"})
        for name, spread in self.statistics.items():
            for part in Spread.model_fields:
                value = None if spread is None else getattr(spread, part)
                data[name if part == "mean" else f"{name}_{part}"] = value
        return data
