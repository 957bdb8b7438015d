"""The record of a comparison: one JSON object per picture, schema `attnviz/compare/1`."""

from typing import Any, Literal

from attnviz.comparison import AGREEMENTS
from attnviz.output.record_parts import (
    AnimationInfo,
    Check,
    Image,
    ModelInfo,
    QueryInfo,
    SmoothingInfo,
    TargetInfo,
)
from attnviz.output.records import MapInfo
from attnviz.output.schema import Maybe, RecordPart, with_numbers


class SideInfo(RecordPart):
    """One of the compared maps.

    `name` distinguishes it from the other sides. `head` is the number of a head, `mean` for the
    mean of several heads, which `heads` lists, or null if the method merges heads. `rows` and
    `columns` are those of the side's own grid; `map` has numbers of its own weights.
    """

    name: str = ""
    model: ModelInfo
    method: str
    options: dict[str, Any] | None = None
    layer: int
    head: int | Literal["mean", "localized"] | None
    heads: list[int] | None = None
    query: QueryInfo
    target: TargetInfo | None = None
    smoothing: SmoothingInfo | None = None
    check: Check
    rows: int
    columns: int
    fit: Literal["keep", "crop", "pad", "squash"]
    map: MapInfo
    file: str | None = None

    def data(self) -> dict[str, Any]:
        """The side as plain data, without parts that do not apply."""
        data = {**self.model_dump(), "check": self.check.data()}
        for name in ("query", "target", "smoothing"):
            part = getattr(self, name)
            data[name] = None if part is None else part.model_dump(exclude_none=True)
        return {key: value for key, value in data.items() if value is not None or key == "head"}


@with_numbers(AGREEMENTS)
class PairInfo(RecordPart):
    """How alike two sides are, over the `cells` that both saw; the sides are given by number.

    An agreement is null if one of the sides is flat. `file` is present if the difference was drawn.
    """

    first: int
    second: int
    spearman: Maybe
    pearson: Maybe
    jaccard60: Maybe
    cells: int
    file: str | None = None

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return self.model_dump(exclude={"file"} if self.file is None else None)


class ComparisonRecord(RecordPart):
    """Everything about the comparison of one picture; cells are those of the first side's grid."""

    schema_: Literal["attnviz/compare/1"] = "attnviz/compare/1"
    image: Image
    sides: list[SideInfo]
    pairs: list[PairInfo]
    animation: AnimationInfo | None = None

    def data(self) -> dict[str, Any]:
        """As plain data, `schema` first; without an animation there is no such part."""
        moving = {} if self.animation is None else {"animation": self.animation.model_dump()}
        return {
            "schema": self.schema_,
            "image": self.image.model_dump(),
            "sides": [side.data() for side in self.sides],
            "pairs": [pair.data() for pair in self.pairs],
            **moving,
        }

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per pair: the picture first, then the names of the sides and the numbers."""
        rows = []
        for pair in self.pairs:
            numbers = pair.model_dump(exclude={"first", "second"})
            sides = {
                "first": pair.first,
                "second": pair.second,
                "first_name": self.sides[pair.first].name,
                "second_name": self.sides[pair.second].name,
            }
            rows.append({"image": self.image.path, **sides, **numbers})
        return rows
