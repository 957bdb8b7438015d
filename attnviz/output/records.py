"""The record: one JSON object per picture, schema `attnviz/1`."""

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from attnviz.output.schema import (
    Count,
    Maybe,
    Number,
    RecordPart,
    defined,
    flat,
    with_numbers,
    without_missing,
)
from attnviz.statistics import MAP_NUMBERS, MORE, STATISTICS


class Image(RecordPart):
    """The picture as a person sees it: its path, and its size in pixels.

    `range` gives the values that are black and white. It is present if the file is not an ordinary
    8-bit picture, or if the user gave a range. `channels`, `slice` and `region` are present if the
    user chose bands, a slice or page, or a region (x, y, width, height): the picture is that part.
    """

    path: str
    width: int
    height: int
    range: tuple[Number, Number] | None = None
    channels: tuple[int, ...] | None = None
    slice: int | None = None
    region: tuple[int, int, int, int] | None = None

    @model_serializer(mode="wrap")
    def _data(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = fields(self)
        for name in ("range", "channels", "slice", "region"):
            if data[name] is None:
                del data[name]
        return data


class Moment(RecordPart):
    """A frame of a clip: its number from 0, its time in seconds, and the clip's frames a second."""

    frame: int
    time: Number
    rate: Number


class AnimationInfo(RecordPart):
    """An animation of the maps: a frame per layer, head or side, `rate` frames per second."""

    by: Literal["layers", "heads", "checkpoints"]
    frames: int
    rate: Number
    file: str


class ModelInfo(RecordPart):
    """The model that was run; `heads` is the largest number of heads of a layer."""

    spec: str
    weights: str
    layers: int
    heads: int
    device: str
    dtype: str
    features: int | None
    seed: int | None


class Tokens(RecordPart):
    """How the picture lies in the model's input, and the grid of the last requested layer.

    With `tiles`, the grid is the joined one, and the input is that of one tile.
    """

    kind: Literal["patches", "pixels"]
    rows: int
    columns: int
    patch: int
    prefix: int
    input_width: int
    input_height: int
    fit: Literal["keep", "crop", "pad", "squash"]
    masked: int


class Tiles(RecordPart):
    """The tiles that maps were joined from: their side in picture pixels, overlap, and number."""

    side: int
    overlap: float
    rows: int
    columns: int


class Preprocessing(RecordPart):
    """How pixel values 0 to 1 become the model's input: resized, then (value - mean) / std."""

    channels: int
    mean: list[Number]
    std: list[Number]
    resize: str

    def __str__(self) -> str:
        numbers = [
            "/".join(f"{each:.4g}" for each in dict.fromkeys(side))
            for side in (self.mean, self.std)
        ]
        return f"{self.resize}, mean {numbers[0]}, std {numbers[1]}"


class QueryInfo(RecordPart):
    """The query: the token, region or average that the map looks from, in picture pixels."""

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
    """The score whose gradient the method uses: its target (class, text or norm) and its value."""

    kind: Literal["class", "norm", "text"]
    index: int | None = None
    label: str | None = None
    text: str | None = None
    query: QueryInfo | None = None
    score: Maybe
    probability: Maybe = None


class NotDrawn(RecordPart):
    """An attention call that no map shows; `layer` is null if the call could not be recorded."""

    layer: int | None
    reason: str


class Check(RecordPart):
    """Whether the maps can be trusted: whether the recorded weights give the model's output.

    `places` is `measured` if the positions of the tokens were traced through the model, and
    `assumed` if they follow from the number of tokens alone; `places_reason` then gives the reason.
    `loaded` is the share of the parameters that the maps need and that a checkpoint filled; it is
    null if no checkpoint was read. `load_notes` is present if parts of the checkpoint are missing
    or unused, and names them. `not_drawn` lists the attention calls that no map shows.
    """

    verified: bool
    max_error: Maybe
    places: Literal["measured", "assumed"] = "measured"
    places_reason: str | None = None
    loaded: Maybe = None
    load_notes: list[str] | None = None
    not_drawn: list[NotDrawn] = Field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """The check as plain data, without reasons and notes that do not exist."""
        return without_missing(self.model_dump(), ("load_notes", "places_reason"))


@with_numbers(MAP_NUMBERS)
class MapInfo(RecordPart):
    """Numbers of the drawn weights, and the numbers that other packages add to `MAP_NUMBERS`."""

    minimum: Number
    maximum: Number
    entropy: Number
    peak_x: Number
    peak_y: Number
    area60: Number
    spatial_entropy: Maybe = None
    border_mass: Maybe = None
    border_ratio: Maybe = None


class LocalizedHeadInfo(RecordPart):
    """A head that was chosen because its map is localized; the lower the score, the more it is.

    `score` is `map.spatial_entropy` + 2·`map.border_mass`; null if the map is flat. `question` is
    its number if there are several: queries first, then targets.
    """

    question: int
    layer: int
    head: int
    score: Maybe


class ScaleInfo(RecordPart):
    """The range of weights that the colours span."""

    kind: str
    minimum: Number
    maximum: Number


@with_numbers(STATISTICS, MORE)
class Head(RecordPart):
    """One map of rows × columns, and the numbers of its head.

    If the method merges heads, `head` and the numbers of a head are null. If it merges layers,
    `layer` is the last of them. `rank` is present with localized heads: 1 for the most localized, 0
    for their mean, whose `layer` is the last of those that they were chosen from. `kind` says how
    the model made the weights of the layer: `softmax` of q·kᵀ, or in another way
    (docs/formulas.md); `sums_to_one` whether its rows are distributions. If they are not, the
    numbers that need one are null. Both are null where layers are merged. `query` and `target` are
    present if they differ from those of the record: `auto` found another query in this layer, or
    there were several questions. The numbers of the table `MORE` are present if they were computed
    (`--stats all`), and null if they are not defined. Numbers that other packages add to
    `STATISTICS` and `MORE` follow the declared fields.
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
    kind: str | None = None
    sums_to_one: bool | None = None
    rows: int
    columns: int
    rank: int | None = None
    map: MapInfo
    query: QueryInfo | None = None
    target: TargetInfo | None = None
    scale: ScaleInfo | None = None
    file: str | None = None

    @property
    def unsaid(self) -> tuple[str, ...]:
        """Names of the numbers of `MORE` that were not computed."""
        return tuple(name for name in MORE if name not in self.model_fields_set)


class TokenInfo(RecordPart):
    """A token that stands out.

    `window` is present if the layer has several windows. `x` and `y` are the middle of the token's
    cell in picture pixels; they are present if that cell lies on the picture.
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
    """Numbers that compare the heads or the tokens of one layer.

    The matrices `cosine` and `jensen_shannon` (heads × heads) have all heads of the layer, not only
    the requested ones. The norms are present if the tokens after the layer's block were recorded.
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
        data = defined(self.model_dump())
        for name in ("sinks", "high_norm"):
            if name in data:
                data[name] = [defined(token) for token in data[name]]
        return data


class Record(RecordPart):
    """Everything about one picture.

    `moment` is present if the picture is a frame of a clip, `animation` if an animation was made,
    `layers` if more statistics were requested (`--stats all`), `localized` if the most localized
    heads were (`--heads localized`): then the last map of each question is their mean. `tiles` is
    present if the picture was cut into tiles (`--tile`): the numbers of a head, and a score, are
    then means over tiles, and the maps and their numbers are those of the joined maps.
    """

    schema_: Literal["attnviz/1"] = "attnviz/1"
    image: Image
    moment: Moment | None = None
    model: ModelInfo
    tokens: Tokens
    tiles: Tiles | None = None
    preprocessing: Preprocessing | None = None
    query: QueryInfo
    method: str
    options: dict[str, Any] | None = None
    target: TargetInfo | None = None
    check: Check
    localized: list[LocalizedHeadInfo] | None = None
    heads: list[Head]
    animation: AnimationInfo | None = None
    layers: list[LayerInfo] | None = None

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; parts that do not apply are left out."""
        data = self.model_dump(exclude={"schema_", "layers"})
        heads = [
            without_missing(head, ("rank", "query", "target", "scale", "file", *given.unsaid))
            for given, head in zip(self.heads, data["heads"], strict=True)
        ]
        layers = {} if self.layers is None else {"layers": [one.data() for one in self.layers]}
        data["check"] = self.check.data()
        parts = without_missing(
            data,
            (
                *("moment", "tiles", "preprocessing", "query", "options", "target", "localized"),
                "animation",
            ),
        )
        return {"schema": self.schema_, **parts, "heads": heads, **layers}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per map: `map.peak_x` becomes `map_peak_x`; the picture, or frame, is first.

        All rows have the same columns. If maps differ in their query or target, its columns are
        among them.
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
