"""What is said of all pictures of a folder together: a row a head, schema `attnviz/aggregate/1`."""

from typing import Any, Literal

from attnviz.output.schema import Number, RecordPart, SummaryRow


class Spread(RecordPart):
    """One number over the pictures; `missing` are those of which it is not defined."""

    mean: Number
    deviation: Number
    q05: Number
    q25: Number
    q50: Number
    q75: Number
    q95: Number
    missing: int


class AggregateRow(SummaryRow):
    """One head, or the heads that a method merges, over all pictures.

    `question` counts from 0 where several queries or targets were asked; `pictures` are those that
    have this head. `statistics` has what is known of any head, null where it is not of this one.
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
        """Flat: the mean by the statistic's own name, the rest as `entropy_q05`."""
        return self._flat("statistics", Spread)
