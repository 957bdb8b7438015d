"""Options that choose what is drawn, written and printed."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnviz.cli.options.completion import METRICS, SCALES, colormap_names
from attnviz.cli.options.groups import (
    OUTPUT,
    PICTURES,
    MetricSettings,
    choices,
    option,
    option_field,
)
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError
from attnviz.output import FORMATS

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = choices(FORMATS)

Json = Annotated[bool, option("--json", "Print one JSON object per line.", OUTPUT)]
"""The option `--json` of the commands that list something."""


@dataclass(frozen=True, repr=False, eq=False)
class LookOptions:
    """How maps look over the picture."""

    colormap: str = option_field(
        "viridis", "Matplotlib colour map.", PICTURES, complete=colormap_names, metavar="NAME"
    )
    alpha: float = option_field(
        0.5, "Share of the map's colour in the overlay.", PICTURES, min=0.0, max=1.0
    )
    interpolation: Literal["bicubic", "nearest"] = option_field(
        "bicubic", "Draw maps smoothly, or each token as a block (nearest).", PICTURES
    )


@dataclass(frozen=True, repr=False, eq=False)
class StyleOptions(LookOptions):
    """How maps look over the picture, and the format of the files."""

    format: FormatName = option_field("png", "Format of the picture files.", PICTURES)


@dataclass(frozen=True, repr=False, eq=False)
class ScaleOptions:
    """The range of weights that the colours span."""

    scale: str = option_field(
        "head",
        "Weights that the colours span: head (each map), layer, all, LO:HI or log.",
        PICTURES,
        complete=lambda: SCALES,
        metavar="RANGE",
    )

    def __post_init__(self) -> None:
        parse_scale(self.scale)


@dataclass(frozen=True, repr=False, eq=False)
class MovieOptions:
    """The form of a moving picture."""

    animate: str | None = None
    movie: Literal["webp", "gif", "apng", "mp4"] | None = option_field(
        None, "Format of the moving picture; mp4 needs the extra video.  [default: webp]", PICTURES
    )
    fps: float | None = option_field(
        None, "Frames per second.  [default: 2]", PICTURES, min=0.05, max=50.0
    )

    def __post_init__(self) -> None:
        for name, value in (("--movie", self.movie), ("--fps", self.fps)):
            if value is not None and self.animate is None:
                raise UsageError(f"{name} needs a moving picture; add --animate {self.changes()}")

    def changes(self) -> str:
        """What may change from frame to frame, for an error."""
        return "layers, or heads"

    def values(self) -> dict[str, Any]:
        """The given values by name, as arguments of `Drawing`."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, repr=False, eq=False)
class DrawingOptions(MovieOptions, ScaleOptions, StyleOptions):
    """How maps are drawn."""

    animate: Literal["layers", "heads", "words"] | None = option_field(
        None,
        "Also write a moving picture with one frame per layer, per head, or per word of an answer.",
        PICTURES,
    )
    overlay_size: str = option_field(
        "picture",
        "Longest side of the overlays in pixels, or picture: its own size.",
        PICTURES,
        metavar="N",
    )
    blend: bool = option_field(
        False,
        "Also draw two or three targets, texts or queries in one picture, each in its colour.",
        PICTURES,
    )

    def __post_init__(self) -> None:
        ScaleOptions.__post_init__(self)
        MovieOptions.__post_init__(self)
        _ = self.values()

    def values(self) -> dict[str, Any]:
        """The given values by name, as arguments of `Drawing`."""
        text = self.overlay_size
        if not (text == "picture" or (text.isascii() and text.isdigit() and int(text) >= _SMALL)):
            raise UsageError(
                f"--overlay-size {text!r} cannot be read; give picture, or a number of pixels from "
                f"{_SMALL} on"
            )
        side = None if text == "picture" else int(text)
        return {**super().values(), "overlay_size": side}


_SMALL = 16  # pixels: the shortest longest side of an overlay


@dataclass(frozen=True, repr=False, eq=False)
class PageOptions(ScaleOptions, LookOptions):
    """How a page draws maps at first."""


@dataclass(frozen=True, repr=False, eq=False)
class ClipOptions(ScaleOptions, LookOptions):
    """How the frames of a clip are drawn."""


Frames = Annotated[
    str | None,
    option(
        "--frames",
        "Frames that a model of clips sees: N of them, evenly from frame A to before frame B.  "
        "[default: all of the clip, as many as the model takes]",
        PICTURES,
        metavar="A:B:N",
    ),
]


@dataclass(frozen=True, repr=False, eq=False)
class DifferenceOptions(MovieOptions, StyleOptions):
    """How maps and their differences are drawn."""

    animate: Literal["checkpoints"] | None = option_field(
        None, "Also write a moving picture with one frame per side.", PICTURES
    )
    diverging: str = option_field(
        "RdBu_r",
        "Matplotlib colour map for differences; its middle is 0.",
        PICTURES,
        complete=colormap_names,
        metavar="NAME",
    )

    def changes(self) -> str:
        """What may change from frame to frame, for an error."""
        return "checkpoints"


@dataclass(frozen=True, repr=False, eq=False)
class PathOptions:
    """What goes to standard output, for commands that only write files."""

    quiet: bool = option_field(False, "Print only the paths of the files written.", OUTPUT)
    debug: bool = option_field(False, "Show the traceback of an error.", OUTPUT)


@dataclass(frozen=True, repr=False, eq=False)
class ToldOptions(PathOptions):
    """What goes to standard output, for commands without tables."""

    json: bool = option_field(False, "Print JSON, one object per line.", OUTPUT)

    def __post_init__(self) -> None:
        if self.json and self.quiet:
            raise UsageError("--json and --quiet exclude one another; give one of them")


@dataclass(frozen=True, repr=False, eq=False)
class StreamOptions(ToldOptions):
    """What goes to standard output."""

    csv: bool = option_field(False, "Print CSV.", OUTPUT)

    def __post_init__(self) -> None:
        if self.json + self.csv + self.quiet > 1:
            raise UsageError("--json, --csv and --quiet exclude one another; give one of them")


Npz = Annotated[bool, option("--npz", "Also write the maps as arrays: maps.npz.", OUTPUT)]


ComparedNpz = Annotated[
    bool, option("--npz", "Also write the compared maps as arrays: compare.npz.", OUTPUT)
]
MorePictures = Annotated[
    list[str] | None,
    option("--image -i", "Picture file, as IMAGE. May be repeated.", metavar="IMAGE"),
]
NoPreview = Annotated[
    bool, option("--no-preview", "Do not draw the sheet in the terminal.", PICTURES)
]
Out = Annotated[Path, option("--out -o", "Folder for the files.", OUTPUT, metavar="FOLDER")]
FILMS = (".mp4", ".mov", ".mkv", ".webm")
"""The endings of films that attnviz can write."""
FilmOut = Annotated[
    Path,
    option(
        "--out -o", f"Film file ({', '.join(FILMS)}), or a folder for it.", OUTPUT, metavar="FILE"
    ),
]
PageOut = Annotated[
    Path | None,
    option(
        "--out -o",
        "Page file, or a folder for it.  [default: attnviz-out/IMAGE.html]",
        OUTPUT,
        metavar="FILE",
    ),
]
OptionalOut = Annotated[
    Path | None,
    option(
        "--out -o",
        "Also write stats.json and stats.csv into this folder.",
        OUTPUT,
        metavar="FOLDER",
    ),
]


EvaluationOut = Annotated[
    Path | None,
    option(
        "--out -o",
        "Also write evaluation.jsonl, .csv and .png into this folder. A second run continues "
        "there.",
        OUTPUT,
        metavar="FOLDER",
    ),
]
Pictures = Annotated[
    list[str],
    typer.Argument(metavar="PICTURE...", help="Pictures, and folders of them."),
]
Masks = Annotated[
    str | None,
    option(
        "--masks",
        "Folder with one mask per picture, or the mask of a single picture.",
        metavar="PATH",
    ),
]
Words = Annotated[
    str | None,
    option(
        "--words",
        "JSON lines with the words for the objects of each mask: maps of words are evaluated.",
        metavar="FILE",
    ),
]
Metrics = Annotated[
    str | None,
    option(
        "--metrics",
        "Groups of numbers: masks, perturbation, sensitivity (small noise) and randomisation "
        "(redrawn weights), with commas between them.  [default: masks with --masks, else "
        "perturbation]",
        complete=lambda: METRICS,
        metavar="WHICH",
    ),
]


@dataclass(frozen=True, repr=False, eq=False)
class MetricOptions:
    """Options of the metrics' own."""

    settings: MetricSettings = field(default_factory=dict)


Limit = Annotated[
    int | None, option("--limit", "Use only the first N pictures.", metavar="N", min=1)
]
