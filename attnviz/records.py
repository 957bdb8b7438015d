"""The record: one JSON object per picture, schema `attnviz/1`."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _tidy(value: float | None) -> float | None:
    """Eight significant digits, more than float32 holds; what is not a number is null."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.8g}")


Number = Annotated[float, BeforeValidator(_tidy)]
"""A number that is always there."""
Maybe = Annotated[float | None, BeforeValidator(_tidy)]
"""A number that is null where it is not defined, as 0/0."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(_Part):
    """The picture as seen."""

    path: str
    width: int
    height: int


class ModelInfo(_Part):
    """What was run."""

    spec: str
    weights: str
    layers: int
    heads: int
    device: str
    dtype: str
    features: int
    seed: int | None


class Tokens(_Part):
    """How the picture was laid into the model's input."""

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

    kind: Literal["cls", "mean", "point", "box", "mask"]
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
    """One map and the numbers of its head."""

    layer: int
    head: int
    entropy: Number
    entropy_ratio: Maybe
    confidence: Number
    distance_px: Number
    prefix_mass: Number
    sink_mass: Number
    map: MapInfo
    scale: ScaleInfo | None = None
    file: str | None = None


class Record(_Part):
    """All that is said about one picture."""

    schema_: Literal["attnviz/1"] = "attnviz/1"
    image: Image
    model: ModelInfo
    tokens: Tokens
    query: QueryInfo
    method: str
    check: Check
    heads: list[Head]

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; parts that do not apply are left out."""
        data = self.model_dump()
        for head in data["heads"]:
            for part in ("scale", "file"):
                if head[part] is None:
                    del head[part]
        query = {key: value for key, value in data["query"].items() if value is not None}
        del data["schema_"]
        return {"schema": self.schema_, **data, "query": query}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per head: `map.peak_x` becomes `map_peak_x`; first comes the picture."""
        return [{"image": self.image.path, **_flat(head)} for head in self.data()["heads"]]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}_")
        else:
            flat[prefix + key] = value
    return flat
