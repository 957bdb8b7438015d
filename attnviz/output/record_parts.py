"""Parts of the record about a picture: what was seen by which model, and the check."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from attnviz.output.schema import Maybe, Number, RecordPart, without_missing


class Image(RecordPart):
    """The picture as a person sees it: its path, and its size in pixels.

    `range` gives the values that are black and white. It is present if the file is not an ordinary
    8-bit picture, or if the user gave a range. `channels`, `slice` and `region` are present if the
    user chose bands, a slice or page, or a region (x, y, width, height): the picture is that part.
    `reduced` is present if the file was decoded at 1/reduced of its size for the model.

    A sound has `duration`, the seconds of its file, and its picture is a spectrogram of frames ×
    bands. `seconds` are the times of its left and right border, and `hertz` the middle of each row,
    the lowest row first.
    """

    path: str
    width: int
    height: int
    range: tuple[Number, Number] | None = None
    channels: tuple[int, ...] | None = None
    slice: int | None = None
    region: tuple[int, int, int, int] | None = None
    reduced: int | None = None
    duration: Maybe = None
    seconds: tuple[Number, Number] | None = None
    hertz: list[Number] | None = None

    @model_serializer(mode="wrap")
    def _data(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = fields(self)
        return {name: value for name, value in data.items() if value is not None}


class Moment(RecordPart):
    """A frame of a clip: its number from 0, its time in seconds, and the clip's frames a second."""

    frame: int
    time: Number
    rate: Number


class ViewMoment(RecordPart):
    """The first frame of a view of a clip: its number in the clip, and its time in seconds."""

    frame: int
    time: Number


class ViewInfo(RecordPart):
    """A view: one grid over one part of the picture, `x0` to `y1`, that the model saw.

    A view of a clip is of the kind `frames`, and covers its frames `frame0` to `frame1`. A view of
    the kind `tiles` is put together from so many tiles of the picture. With a prompt, `layers` are
    the layers whose words attend to it; it is present if they differ from view to view.
    """

    view: int
    kind: Literal["whole", "frames", "tiles"]
    rows: int
    columns: int
    x0: Number
    y0: Number
    x1: Number
    y1: Number
    frame0: int | None = None
    frame1: int | None = None
    tiles: int | None = None
    layers: list[int] | None = None


class WordInfo(RecordPart):
    """A word of an answer, and its characters there.

    `tokens` number the sequence that the language model sees. `logprob` is the natural logarithm of
    the probability that the model gives to them.
    """

    word: str
    start: int
    end: int
    tokens: list[int]
    logprob: Maybe = None


class LayerMass(RecordPart):
    """The share of attention on the picture in one layer: mean over heads and words."""

    layer: int
    image_mass: Number


class TextInfo(RecordPart):
    """Prompt and answer of a model that answers in words.

    `agrees` says whether the recorded run predicts every token that was generated; it is null for a
    given answer. `cut` says whether the answer goes on behind the last word. `baseline_prompt` is
    present if maps are divided by those after this other prompt. `layers` says how much each drawn
    layer looks at the picture while it says the words, and `image_layer` which does so most; it is
    null if none stands out. `learned_queries` is present if words see the picture through so many
    learned queries alone.
    """

    prompt: str
    answer: str
    baseline_prompt: str | None = None
    learned_queries: int | None = None
    prompt_tokens: int
    tokens: int
    agrees: bool | None = None
    cut: bool = False
    words: list[WordInfo]
    image_layer: int | None = None
    layers: list[LayerMass] = Field(default_factory=list)


class AnimationInfo(RecordPart):
    """An animation of the maps: a frame per layer, head, word or side, `rate` a second."""

    by: Literal["layers", "heads", "words", "checkpoints"]
    frames: int
    rate: Number
    file: str


class BlendInfo(RecordPart):
    """Maps of one layer and head in one picture: a colour for each question, or component."""

    layer: int
    head: int | None
    colours: list[str]
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

    With `tiles`, the grid is the joined one, and the input is that of one tile. `grids` has rows
    and columns of each grid if the keys lie on several; then `rows` and `columns` are the finest's.
    """

    kind: Literal["patches", "pixels"]
    rows: int
    columns: int
    patch: int | None
    cell_width: int | float
    cell_height: int | float
    prefix: int
    input_width: int
    input_height: int
    fit: Literal["keep", "crop", "pad", "squash"]
    masked: int
    grids: list[tuple[int, int]] | None = None


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
    """The query: the token, region or average that the map looks from, in picture pixels.

    A place in a sound has seconds and hertz too: a point `time` and `frequency`, a box `time0`,
    `frequency0`, `time1` and `frequency1`. An object has the number of its object query, its label,
    the label's probability, and the box that the model predicts, or that of its mask. Of a word,
    `index` is its number among the words of its text, and `token` its first token.
    """

    kind: Literal[
        "cls", "register", "mean", "pool", "all", "point", "box", "mask", "object",
        "word", "prompt_word", "token",
    ]  # fmt: skip
    number: int | None = None
    index: int | None = None
    label: str | None = None
    score: Maybe = None
    x: float | None = None
    y: float | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    path: str | None = None
    time: Maybe = None
    frequency: Maybe = None
    time0: Maybe = None
    frequency0: Maybe = None
    time1: Maybe = None
    frequency1: Maybe = None
    word: str | None = None
    token: int | None = None


class TargetInfo(RecordPart):
    """The score whose gradient the method uses: its target (class, text or norm) and its value.

    The score of a word or an object is the logit of this word, or label. That of a region is the
    mean score over the place that `query` gives (all of the picture without one), of a class, or
    of a depth without `index`.

    `against` is present if the mean score of others is subtracted: these in words, or `rest`, all
    others. `score` is then the difference, and `probability` that of the target itself.
    """

    kind: Literal["class", "norm", "text", "word", "object", "region"]
    index: int | None = None
    label: str | None = None
    text: str | None = None
    query: QueryInfo | None = None
    score: Maybe
    probability: Maybe = None
    against: str | None = None


class SmoothingInfo(RecordPart):
    """How maps were smoothed: `pictures` maps have each map as their mean.

    Of `flips` these are of the picture and of its mirror image; of `noise` they are of noisy
    pictures, with the standard deviation `sigma` of pixel values of 0 to 1.
    """

    kind: Literal["flips", "noise"]
    pictures: int
    sigma: Maybe = None
    seed: int | None = None


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
    or unused, and names them. `not_drawn` lists the attention calls that no map shows. `merged` are
    layers some of whose tokens cover several cells, `uneven` those whose tokens lie on no lattice,
    so that each counts for the cell that holds its place; both are left out if there are none.
    """

    verified: bool
    max_error: Maybe
    places: Literal["measured", "assumed"] = "measured"
    places_reason: str | None = None
    loaded: Maybe = None
    load_notes: list[str] | None = None
    not_drawn: list[NotDrawn] = Field(default_factory=list)
    merged: list[int] | None = None
    uneven: list[int] | None = None

    def data(self) -> dict[str, Any]:
        """The check as plain data, without what does not exist."""
        missing = "load_notes", "places_reason", "merged", "uneven"
        return without_missing(self.model_dump(), missing)
