"""The record: one JSON object per picture, schema `attnviz/1`."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from attnviz.output.schema import Count, Maybe, Number, RecordPart, with_numbers
from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS


class Image(RecordPart):
    """The picture as seen.

    `range` are the values that are black and white; it is there where the file is no ordinary one
    of 8 bits, or a range was asked for.
    """

    path: str
    width: int
    height: int
    range: tuple[Number, Number] | None = None

    @model_serializer(mode="wrap")
    def _data(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = fields(self)
        if self.range is None:
            del data["range"]
        return data


class Moment(RecordPart):
    """Which frame of a clip: its number from 0, when it is shown, in seconds; and the rate."""

    frame: int
    time: Number
    rate: Number


class AnimationInfo(RecordPart):
    """A moving picture of the maps: a frame a layer, or a head, so many of them a second."""

    by: Literal["layers", "heads"]
    frames: int
    rate: Number
    file: str


class ModelInfo(RecordPart):
    """What was run; `heads` are those of the layer that has most."""

    spec: str
    weights: str
    layers: int
    heads: int
    device: str
    dtype: str
    features: int | None
    seed: int | None


class Tokens(RecordPart):
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


class QueryInfo(RecordPart):
    """Where we look from, in picture pixels."""

    kind: Literal["cls", "register", "mean", "pool", "all", "point", "box", "mask"]
    number: int | None = None
    x: float | None = None
    y: float | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    path: str | None = None


class TargetInfo(RecordPart):
    """The score whose gradient was taken: what it is of, and its value."""

    kind: Literal["class", "norm", "text"]
    index: int | None = None
    label: str | None = None
    text: str | None = None
    query: QueryInfo | None = None
    score: Maybe
    probability: Maybe = None


class NotDrawn(RecordPart):
    """An attention call that no map shows; `layer` is null where it could not be recorded."""

    layer: int | None
    reason: str


class Check(RecordPart):
    """Whether maps can be trusted: what explains the model's output, and what is not drawn.

    `places` says whether it was measured where tokens lie, or is assumed from their number, for
    `places_reason`. `loaded` is the share of the parameters which maps need that a checkpoint
    filled, null where none was read; `load_notes`, there where something should be known of that,
    name what was left. `not_drawn` are attention calls that no map shows.
    """

    verified: bool
    max_error: Maybe
    places: Literal["measured", "assumed"] = "measured"
    places_reason: str | None = None
    loaded: Maybe = None
    load_notes: list[str] | None = None
    not_drawn: list[NotDrawn] = Field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """As plain data; reasons and notes are left out where there are none."""
        return _without(self.model_dump(), ("load_notes", "places_reason"))


@with_numbers(MAP_NUMBERS)
class MapInfo(RecordPart):
    """Numbers of the drawn weights, and those that other packages add to `MAP_NUMBERS`."""

    minimum: Number
    maximum: Number
    entropy: Number
    peak_x: Number
    peak_y: Number
    area60: Number


class ScaleInfo(RecordPart):
    """The range of weights that the colours span."""

    kind: str
    minimum: Number
    maximum: Number


@with_numbers(STATISTICS, MORE)
class Head(RecordPart):
    """One map, of rows × columns, and the numbers of its head.

    `head` is null where heads are merged, and so are the numbers of a head; where layers are,
    `layer` is the last of them. `query` and `target` are there where they are not the record's:
    `auto` found another query in this layer, or there were several questions. The numbers of
    `MORE` are there where they were given, as null where they are not defined. What other packages
    add to `STATISTICS` and `MORE` stands behind the declared fields.
    """

    layer: int
    head: int | None
    entropy: Maybe = None
    entropy_ratio: Maybe = None
    confidence: Maybe = None
    distance_px: Maybe = None
    prefix_mass: Maybe = None
    sink_mass: Maybe = None
    head_cosine: Maybe = None
    head_jensen_shannon: Maybe = None
    value_distance_px: Maybe = None
    sinks: Count = None
    importance: Maybe = None
    rows: int
    columns: int
    map: MapInfo
    query: QueryInfo | None = None
    target: TargetInfo | None = None
    scale: ScaleInfo | None = None
    file: str | None = None

    @property
    def unsaid(self) -> tuple[str, ...]:
        """Of the numbers that are there where they were given, those that were not."""
        return tuple(name for name in MORE if name not in self.model_fields_set)


class TokenInfo(RecordPart):
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


class LayerInfo(RecordPart):
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
        data = _in_words(self.model_dump())
        for name in ("sinks", "high_norm"):
            if name in data:
                data[name] = [_in_words(token) for token in data[name]]
        return data


class Record(RecordPart):
    """All that is said about one picture.

    `moment` is there where it is a frame of a clip, `animation` where a moving picture was made,
    `layers` where more statistics are.
    """

    schema_: Literal["attnviz/1"] = "attnviz/1"
    image: Image
    moment: Moment | None = None
    model: ModelInfo
    tokens: Tokens
    query: QueryInfo
    method: str
    options: dict[str, Any] | None = None
    target: TargetInfo | None = None
    check: Check
    heads: list[Head]
    animation: AnimationInfo | None = None
    layers: list[LayerInfo] | None = None

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; parts that do not apply are left out."""
        data = self.model_dump(exclude={"schema_", "layers"})
        heads = [
            _without(head, ("query", "target", "scale", "file", *given.unsaid))
            for given, head in zip(self.heads, data["heads"], strict=True)
        ]
        layers = {} if self.layers is None else {"layers": [one.data() for one in self.layers]}
        data["check"] = self.check.data()
        parts = _without(data, ("moment", "query", "options", "target", "animation"))
        return {"schema": self.schema_, **parts, "heads": heads, **layers}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per map: `map.peak_x` becomes `map_peak_x`; first comes the picture, or frame.

        All rows have the same columns; those of the query, or the target, are among them where maps
        differ in it.
        """
        data = self.data()
        heads = data["heads"]
        for part in ("query", "target"):
            if any(part in head for head in heads):
                heads = [{**head, part: head.get(part, data.get(part))} for head in heads]
        moment = {} if self.moment is None else self.moment.model_dump(include={"frame", "time"})
        rows = [{"image": self.image.path, **moment, **flat(head)} for head in heads]
        columns = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key) for key in columns} for row in rows]


def _without(data: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Data without those of its parts that do not apply, and what is null in these."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if key in names and isinstance(value, dict):
            flat[key] = _in_words(value) if key in ("query", "target") else value
        elif key not in names or value is not None:
            flat[key] = value
    return flat


def _in_words(part: dict[str, Any]) -> dict[str, Any]:
    """What is not null of a query or a target."""
    inner = {
        key: _in_words(value) if isinstance(value, dict) else value for key, value in part.items()
    }
    return {key: value for key, value in inner.items() if value is not None}


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Parts of parts as columns of their own: `map.peak_x` becomes `map_peak_x`."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}_")
        else:
            found[prefix + key] = value
    return found
