"""What an evaluation says: a row per map of a model, schema `attnviz/evaluation/1`."""

from typing import Any, Literal

from attnviz.output.schema import Number, RecordPart, SummaryRow


class Interval(RecordPart):
    """A mean over pictures, and the ends of its bootstrap interval of 95 %."""

    mean: Number
    low: Number
    high: Number


class EvaluationRow(SummaryRow):
    """One map of one model, or a baseline of it, over all pictures.

    `head` is a number, `mean` or `best`; `layer` is null where it is the same for all layers,
    `method` and `head` where no model made the map, a metric where it is not measured or defined.
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
        """Flat: the mean by the metric's own name, the ends as `auc_low` and `auc_high`."""
        return self._flat("metrics", Interval)
