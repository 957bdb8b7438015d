"""Records about many pictures: of a batch (`attnviz/aggregate/1`), and of an evaluation."""

from typing import Any, Literal

from attnviz.output.schema import Number, RecordPart


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


class Interval(RecordPart):
    """A mean over pictures, and the ends of its 95 % bootstrap interval."""

    mean: Number
    low: Number
    high: Number


class EvaluationRow(SummaryRow):
    """One map of one model, or one of its baselines, over all pictures.

    `head` is the number of a head, `mean` for the mean of the heads, `best` for the best head of
    each object, or null if the method merges heads. `layer` is null if the map is the same for all
    layers. `method` and `head` are null if no model made the map. A metric is null if it is not
    measured or not defined.
    """

    schema_: Literal["attnviz/evaluation/1"] = "attnviz/evaluation/1"
    model: str
    weights: str
    baseline: Literal["random weights", "gaussian", "saliency"] | None
    method: str | None
    layer: int | None
    head: int | Literal["mean", "best"] | None
    pictures: int
    metrics: dict[str, Interval | None]

    def row(self) -> dict[str, Any]:
        """The row as flat columns: `auc` is the mean, `auc_low` and `auc_high` are the ends."""
        return self._flat("metrics", Interval)
