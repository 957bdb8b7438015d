"""The record: one JSON object per picture, schema `attnviz/1`."""

import math
from typing import Annotated, Any, Literal

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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(_Part):
    """The picture as seen."""

    path: str
    width: int
    height: int


class ModelInfo(_Part):
    """What was run; `heads` are those of the layer that has most."""

    spec: str
    weights: str
    layers: int
    heads: int
    device: str
    dtype: str
    features: int | None
    seed: int | None


class Tokens(_Part):
    """How the picture was laid into the model's input, and the grid of the last layer asked."""

    kind: Literal["patches", "pixels"]
    rows: int
    columns: int
    patch: int
    prefix: int
    input_width: int
    input_height: int
    fit: Literal["keep", "crop", "pad", "squash"]
    masked: int


class QueryInfo(_Part):
    """Where we look from, in picture pixels."""

    kind: Literal["cls", "mean", "pool", "point", "box", "mask"]
    x: float | None = None
    y: float | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    path: str | None = None


class Check(_Part):
    """Whether the recorded weights explain the model's own output."""

    verified: bool
    max_error: Maybe


class MapInfo(_Part):
    """Numbers of the drawn weights."""

    minimum: Number
    maximum: Number
    entropy: Number
    peak_x: Number
    peak_y: Number
    area60: Number


class ScaleInfo(_Part):
    """The range of weights that the colours span."""

    kind: str
    minimum: Number
    maximum: Number


class Head(_Part):
    """One map, of rows × columns, and the numbers of its head.

    `query` is there where it is not the record's, since `auto` found another in this layer. The
    numbers of `MORE_OF_A_HEAD` are there where they were given, as null where they are not defined.
    """

    layer: int
    head: int
    entropy: Number
    entropy_ratio: Maybe
    confidence: Number
    distance_px: Maybe
    prefix_mass: Number
    sink_mass: Number
    head_cosine: Maybe = None
    head_jensen_shannon: Maybe = None
    value_distance_px: Maybe = None
    sinks: Count = None
    importance: Maybe = None
    rows: int
    columns: int
    map: MapInfo
    query: QueryInfo | None = None
    scale: ScaleInfo | None = None
    file: str | None = None


MORE_OF_A_HEAD = (
    "head_cosine",
    "head_jensen_shannon",
    "value_distance_px",
    "sinks",
    "importance",
)


class TokenInfo(_Part):
    """A token that stands out.

    `window` is there where a layer has several, `x` and `y`, the middle of its cell in picture
    pixels, where it is a cell that lies on the picture.
    """

    token: int
    kind: Literal["cls", "prefix", "cell", "other"]
    window: int | None = None
    x: Maybe = None
    y: Maybe = None


class Sink(TokenInfo):
    """A token that receives far more of a head's attention than others do."""

    head: int
    received: Number


class HighNormToken(TokenInfo):
    """A token whose norm after the layer's block stands out."""

    norm: Number


class LayerInfo(_Part):
    """What concerns the heads or the tokens of a layer beside each other.

    The matrices are of all heads of the layer, whichever are asked for. The norms are there where
    the tokens after the layer's block were kept.
    """

    layer: int
    cosine: list[list[Maybe]]
    jensen_shannon: list[list[Maybe]]
    sinks: list[Sink]
    high_norm: list[HighNormToken] | None = None
    norm_median: Maybe = None
    norm_limit: Maybe = None

    def data(self) -> dict[str, Any]:
        """As plain data; parts that do not apply are left out."""
        data = _said(self.model_dump())
        for name in ("sinks", "high_norm"):
            if name in data:
                data[name] = [_said(token) for token in data[name]]
        return data


class Record(_Part):
    """All that is said about one picture; `layers` is there where more statistics are."""

    schema_: Literal["attnviz/1"] = "attnviz/1"
    image: Image
    model: ModelInfo
    tokens: Tokens
    query: QueryInfo
    method: str
    check: Check
    heads: list[Head]
    layers: list[LayerInfo] | None = None

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; parts that do not apply are left out."""
        data = self.model_dump(exclude={"schema_", "layers"})
        for given, head in zip(self.heads, data["heads"], strict=True):
            left_out = [part for part in ("query", "scale", "file") if head[part] is None]
            left_out += [name for name in MORE_OF_A_HEAD if name not in given.model_fields_set]
            for name in left_out:
                del head[name]
            if "query" in head:
                head["query"] = _said(head["query"])
        if self.layers is not None:
            data["layers"] = [layer.data() for layer in self.layers]
        return {"schema": self.schema_, **data, "query": _said(data["query"])}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per head: `map.peak_x` becomes `map_peak_x`; first comes the picture.

        All rows have the same columns; `query_kind` is one where layers differ in it.
        """
        heads = self.data()["heads"]
        if any("query" in head for head in heads):
            kind = {"query": {"kind": self.query.kind}}
            heads = [{**head, **kind, **head} for head in heads]
        return [{"image": self.image.path, **_flat(head)} for head in heads]


class Interval(_Part):
    """A mean over pictures, and the ends of its bootstrap interval of 95 %."""

    mean: Number
    low: Number
    high: Number


class EvaluationRow(_Part):
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

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first."""
        data = self.model_dump()
        return {"schema": data.pop("schema_"), **data}

    def row(self) -> dict[str, Any]:
        """Flat: the mean by the metric's own name, the ends as `auc_low` and `auc_high`."""
        data = self.model_dump(exclude={"schema_", "metrics"})
        for name, interval in self.metrics.items():
            mean, low, high = (
                (None, None, None)
                if interval is None
                else (interval.mean, interval.low, interval.high)
            )
            data |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        return data


def _said(part: dict[str, Any]) -> dict[str, Any]:
    """What is not null of a part."""
    return {key: value for key, value in part.items() if value is not None}


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}_")
        else:
            flat[prefix + key] = value
    return flat
