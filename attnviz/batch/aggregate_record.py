"""The record of all pictures of a folder: one row per head, schema `attnviz/aggregate/1`."""

from typing import Any, Literal

from attnviz.output.schema import Number, RecordPart, SummaryRow


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
    that have this head. `statistics` has every number that any head has; a number is null if this
    head has none.
    """

    schema_: Literal["attnviz/aggregate/1"] = "attnviz/aggregate/1"
    model: str
    weights: str
    method: str
    question: int
    layer: int
    head: int | None
    pictures: int
    statistics: dict[str, Spread | None]

    def row(self) -> dict[str, Any]:
        """The row as flat columns: `entropy` is the mean, `entropy_q05` the quantile, and so on."""
        return self._flat("statistics", Spread)
