"""The record of an evaluation: one row per map of a model, schema `attnviz/evaluation/1`."""

from typing import Any, Literal

from attnviz.output.schema import Number, RecordPart, SummaryRow


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
