"""Which pictures, and how they are read."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from attnviz.cli.options.completion import RANGES
from attnviz.cli.options.groups import PICTURES, option_field
from attnviz.errors import UsageError
from attnviz.explanation.tile_request import LARGEST, LARGEST_OVERLAP, OVERLAP, SMALLEST, Tiling
from attnviz.io.parts import Part, parse_part
from attnviz.io.ranges import FULL, PERCENTS, parse_range

if TYPE_CHECKING:
    from attnviz.io.picture import Picture
    from attnviz.io.picture_tiles import TiledPicture
    from attnviz.models.model import Model


Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Picture files; `-` reads standard input."),
]


OneImage = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE", help="Picture file; `-` reads standard input."),
]
"""Several values, so that the commands can answer a second one with an error in words."""


ClipFile = Annotated[str, typer.Argument(metavar="CLIP", help="Film: MP4, MOV, MKV, WebM, GIF …")]


@dataclass(frozen=True, repr=False, eq=False)
class ReadingOptions:
    """How picture files are read."""

    range: str = option_field(
        FULL,
        "Values that become black and white, for pictures of more than 8 bits: full (the "
        f"file type's range), percentile ({PERCENTS[0]} to {PERCENTS[1]}) or LO:HI.",
        PICTURES,
        complete=lambda: RANGES,
        metavar="VALUES",
    )

    channels: str | None = option_field(
        None,
        "Bands of a picture to draw, from 0: three for red, green and blue, or one in grey.  "
        "[default: the first three]",
        PICTURES,
        metavar="R,G,B",
    )
    slice: int | None = option_field(
        None,
        "Slice of a volume, or page of a TIFF, from 0.  [default: middle slice, first page]",
        PICTURES,
        min=0,
        max=2**31 - 1,
        metavar="N",
    )
    region: str | None = option_field(
        None,
        "Part of each picture to read, in pixels; of a TIFF no more is decoded.",
        PICTURES,
        metavar="X,Y,W,H",
    )

    def __post_init__(self) -> None:
        parse_range(self.range)
        _ = self.part

    @property
    def part(self) -> Part:
        """The part of each file that is the picture."""
        return parse_part(self.channels, self.slice, self.region)

    def open(self, path: str, model: "Model | None" = None) -> "AbstractContextManager[Picture]":
        """A file as a model takes it, for a `with` statement: a picture, or a spectrogram."""
        from attnviz.io.picture import load_part  # noqa: PLC0415 — not for `--help`

        load = load_part if model is None else model.load
        return nullcontext(load(path, self.range, self.part))


@dataclass(frozen=True, repr=False, eq=False)
class TiledReadingOptions(ReadingOptions):
    """How picture files are read, at once or tile by tile."""

    tile: int | None = option_field(
        None,
        "Side of a tile in picture pixels: the model runs on every tile, and the maps are joined.",
        PICTURES,
        min=SMALLEST,
        max=LARGEST,
        metavar="SIDE",
    )
    overlap: float | None = option_field(
        None,
        f"Share of a tile that its neighbours share.  [default: {OVERLAP}]",
        PICTURES,
        min=0.0,
        max=LARGEST_OVERLAP,
        metavar="SHARE",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap is not None and self.tile is None:
            raise UsageError("--overlap is that of tiles; add --tile 224")

    @property
    def tiling(self) -> Tiling | None:
        """How pictures are cut into tiles; None if they are not."""
        if self.tile is None:
            return None
        return Tiling(self.tile, OVERLAP if self.overlap is None else self.overlap)

    def open_tiles(
        self, path: str, model: "Model | None" = None
    ) -> "AbstractContextManager[Picture | TiledPicture]":
        """A picture as requested: decoded, or open to be read tile by tile."""
        from attnviz.io.picture_tiles import open_tiled  # noqa: PLC0415

        tiling = self.tiling
        if tiling is None:
            return self.open(path, model)
        if model is not None and model.sound is not None:
            raise UsageError(f"--tile is of pictures; {model.spec} hears sounds: leave it out")
        return open_tiled(path, self.range, self.part, tiling.side, tiling.overlap)
