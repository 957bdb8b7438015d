"""The record: one JSON object per picture, schema `attnviz/1`."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from attnviz.output.record_parts import (
    AnimationInfo,
    BlendInfo,
    Check,
    Image,
    ModelInfo,
    Moment,
    Preprocessing,
    QueryInfo,
    SmoothingInfo,
    TargetInfo,
    TextInfo,
    Tiles,
    Tokens,
    ViewInfo,
    ViewMoment,
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
from attnviz.statistics import MAP_NUMBERS, MORE, OBJECT_NUMBERS, STATISTICS

_SOMETIMES = ("peak_time", "peak_frequency", *OBJECT_NUMBERS)
"""Numbers of a map that are left out where they were not computed."""


@with_numbers(MAP_NUMBERS)
class MapInfo(RecordPart):
    """Numbers of the drawn weights, and the numbers that other packages add to `MAP_NUMBERS`.

    `peak_time` and `peak_frequency`, in seconds and hertz, are present for sounds. Three numbers
    are present if the map looks from an object: `object_mass` is the share of the map within its
    mask, or its box; `object_distance` and `object_peak_distance` lead from the map's centre of
    mass and from its peak to the middle of the box, in picture pixels. They are null if the mask is
    empty.
    """

    minimum: Number
    maximum: Number
    entropy: Number
    peak_x: Number
    peak_y: Number
    area60: Number
    spatial_entropy: Maybe = None
    border_mass: Maybe = None
    border_ratio: Maybe = None
    peak_time: Maybe = None
    peak_frequency: Maybe = None
    object_mass: Maybe = None
    object_distance: Maybe = None
    object_peak_distance: Maybe = None

    @model_serializer(mode="wrap")
    def _data(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        missing = [name for name in _SOMETIMES if name not in self.model_fields_set]
        return {name: value for name, value in fields(self).items() if name not in missing}


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


class PointInfo(RecordPart):
    """A point that deformable attention samples, in picture pixels, and the model's weight."""

    x: Number
    y: Number
    level: int
    weight: Number


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
    there were several questions. `points` is present for deformable attention from one place. Of a
    clip that the model sees at once, a map shows one view, whose first frame is `moment`;
    `view_mass` is the share of the query's attention in it. `component` and `share` are present for
    methods of components: its number from 1, and what it explains of the variance (`pca`), of the
    tokens (`clusters`) or of all weights (`factors`). `view` is present if `views` is. With a
    prompt, `image_mass` is the share of a row's attention on tokens of the picture, `text_mass`
    that on tokens of text but the first, null where a layer sees no text, and `image_sink_mass`
    that on visual sinks, null where words look across to an encoder. The
    numbers of the table `MORE` are present if they were computed (`--stats all`), and null if they
    are not defined. Numbers that other packages add to `STATISTICS` and `MORE` follow the declared
    fields.
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
    points: list[PointInfo] | None = None
    image_mass: Maybe = None
    text_mass: Maybe = None
    image_sink_mass: Maybe = None
    view: int | None = None
    moment: ViewMoment | None = None
    view_mass: Maybe = None
    component: int | None = None
    share: Maybe = None

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


class LayerHighNorm(RecordPart):
    """The tokens of high norm of a layer whose components were asked."""

    layer: int
    median: Number
    limit: Number
    tokens: list[HighNormToken]


class LayerVisualSinks(RecordPart):
    """The picture's tokens in one layer that are sinks: by massive activations in `dimensions`."""

    layer: int
    dimensions: list[int]
    tokens: list[TokenInfo]


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


LISTS = ("points",)
"""Fields of a map that are no columns of a table."""
OF_VIEWS = ("view", "moment", "view_mass")
"""Fields of a map about its view; `moment` becomes the columns `frame` and `time`."""
_OPTIONAL = (
    *("rank", "query", "target", "scale", "file", "points", "image_mass", "text_mass"),
    "image_sink_mass",
    *("component", "share", *OF_VIEWS),
)
"""Fields of a map that are left out if they do not apply."""


class Record(RecordPart):
    """Everything about one picture.

    `smoothing` is present if each map is a mean (`--smooth`); then numbers of heads are those of
    the picture itself. `moment` is present if the picture is a frame of a clip, `animation` if an
    animation was made,
    `blends` if pictures of several maps were drawn, `high_norm` if there are such tokens in layers
    whose components were asked,
    `layers` if more statistics were requested (`--stats all`), `localized` if the most localized
    heads were (`--heads localized`): then the last map of each question is their mean. `tiles` is
    present if the picture was cut into tiles (`--tile`): the numbers of a head, and a score, are
    then means over tiles, and the maps and their numbers are those of the joined maps. `views` is
    present if maps lie on several grids, or if the model saw several frames of a clip at once. With
    a prompt, `text` has it and the answer, and `views` are the parts of the picture that the words
    attend to, of which a map is put together; `visual_sinks` are those of their layers, if there
    are any.
    """

    schema_: Literal["attnviz/1"] = "attnviz/1"
    image: Image
    moment: Moment | None = None
    model: ModelInfo
    tokens: Tokens
    tiles: Tiles | None = None
    preprocessing: Preprocessing | None = None
    text: TextInfo | None = None
    query: QueryInfo
    method: str
    options: dict[str, Any] | None = None
    target: TargetInfo | None = None
    smoothing: SmoothingInfo | None = None
    check: Check
    localized: list[LocalizedHeadInfo] | None = None
    heads: list[Head]
    animation: AnimationInfo | None = None
    blends: list[BlendInfo] | None = None
    layers: list[LayerInfo] | None = None
    views: list[ViewInfo] | None = None
    high_norm: list[LayerHighNorm] | None = None
    visual_sinks: list[LayerVisualSinks] | None = None

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; parts that do not apply are left out."""
        data = self.model_dump(exclude={"schema_", "layers"})
        heads = [
            without_missing(head, (*_OPTIONAL, *given.unsaid))
            for given, head in zip(self.heads, data["heads"], strict=True)
        ]
        layers = {} if self.layers is None else {"layers": [one.data() for one in self.layers]}
        data["check"] = self.check.data()
        data["views"] = None if self.views is None else [defined(one) for one in data["views"]]
        if data["text"] is not None:
            data["text"] = without_missing(data["text"], ("baseline_prompt", "learned_queries"))
        data["tokens"] = without_missing(data["tokens"], ("grids",))
        for layer in data["visual_sinks"] or ():
            layer["tokens"] = [defined(token) for token in layer["tokens"]]
        parts = without_missing(
            data,
            (
                *("moment", "tiles", "preprocessing", "query", "options", "target", "localized"),
                *("animation", "blends", "views", "text", "high_norm", "smoothing"),
                "visual_sinks",
            ),
        )
        return {"schema": self.schema_, **parts, "heads": heads, **layers}

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per map: `map.peak_x` becomes `map_peak_x`; picture, prompt, frame first.

        All rows have the same columns. If maps differ in their query or target, or look from an
        object, its columns are among them.
        """
        data = self.data()
        heads = data["heads"]
        for part in ("query", "target"):
            named = part == "query" and self.query.kind == "object"
            if named or any(part in head for head in heads):
                heads = [{**head, part: head.get(part, data.get(part))} for head in heads]
        moment = {} if self.moment is None else self.moment.model_dump(include={"frame", "time"})
        heads = [{**(head.pop("moment", None) or {}), **head} for head in heads]
        heads = [{key: head[key] for key in head if key not in LISTS} for head in heads]
        asked = {} if self.text is None else {"prompt": self.text.prompt}
        rows = [{"image": self.image.path, **asked, **moment, **flat(head)} for head in heads]
        columns = dict.fromkeys(key for row in rows for key in row)
        return [{key: row.get(key) for key in columns} for row in rows]
