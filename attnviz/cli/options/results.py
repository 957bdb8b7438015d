"""Options of what is drawn, written and printed."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnviz.cli.options.groups import option
from attnviz.cli.options.method_options import Finalizers, choices
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError
from attnviz.output import FORMATS

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = choices(FORMATS)

Json = Annotated[bool, option("--json", help="One JSON object a line.")]
"""Of the commands that list something."""


@dataclass(frozen=True, repr=False, eq=False)
class LookOptions:
    """What is laid over the picture, and how."""

    colormap: Annotated[
        str, option("--colormap", help="A matplotlib colour map.", metavar="NAME")
    ] = "viridis"
    alpha: Annotated[
        float, option("--alpha", help="Share of the colour in the overlay.", min=0.0, max=1.0)
    ] = 0.5
    interpolation: Annotated[
        Literal["bicubic", "nearest"],
        option("--interpolation", help="Smooth maps, or tokens as they are."),
    ] = "bicubic"


@dataclass(frozen=True, repr=False, eq=False)
class StyleOptions(LookOptions):
    """The same, in files."""

    format: Annotated[FormatName, option("--format", help="Of the pictures written.")] = "png"


@dataclass(frozen=True, repr=False, eq=False)
class ScaleOptions:
    """What the colours stand for."""

    scale: Annotated[
        str,
        option(
            "--scale",
            help="Weights that the colours span: head, layer, all, LO:HI or log.",
            metavar="RANGE",
        ),
    ] = "head"

    def __post_init__(self) -> None:
        parse_scale(self.scale)


@dataclass(frozen=True, repr=False, eq=False)
class DrawingOptions(ScaleOptions, StyleOptions):
    """How maps are drawn."""

    animate: Annotated[
        Literal["layers", "heads"] | None,
        option(
            "--animate",
            help="Also a moving picture: a frame for each layer, or each head.",
        ),
    ] = None
    movie: Annotated[
        Literal["webp", "gif", "apng", "mp4"] | None,
        option("--movie", help="What it is; mp4 is an extra: video.  [default: webp]"),
    ] = None
    fps: Annotated[
        float | None,
        option("--fps", help="Its frames a second.  [default: 2]", min=0.05, max=50.0),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("--movie", self.movie), ("--fps", self.fps)):
            if value is not None and self.animate is None:
                raise UsageError(f"{name} is of a moving picture; add --animate layers, or heads")

    def values(self) -> dict[str, Any]:
        """By name, as `Drawing` takes them: without those that were not given."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, repr=False, eq=False)
class PageOptions(ScaleOptions, LookOptions):
    """How maps are drawn at first, on a page."""


@dataclass(frozen=True, repr=False, eq=False)
class ClipOptions(ScaleOptions, LookOptions):
    """How the frames of a clip are drawn."""


@dataclass(frozen=True, repr=False, eq=False)
class DifferenceOptions(StyleOptions):
    """How maps and their differences are drawn."""

    diverging: Annotated[
        str,
        option("--diverging", help="A colour map for differences, its middle 0.", metavar="NAME"),
    ] = "RdBu_r"


@dataclass(frozen=True, repr=False, eq=False)
class ToldOptions:
    """What goes to standard output, where there are no tables."""

    json: Annotated[bool, option("--json", help="JSON on stdout, one object a line.")] = False
    quiet: Annotated[bool, option("--quiet", help="Print the paths of files only.")] = False
    debug: Annotated[bool, option("--debug", help="Show the traceback of an error.")] = False

    def __post_init__(self) -> None:
        if self.json and self.quiet:
            raise UsageError("--json and --quiet exclude one another; give one of them")


@dataclass(frozen=True, repr=False, eq=False)
class StreamOptions(ToldOptions):
    """What goes to standard output."""

    csv: Annotated[bool, option("--csv", help="CSV on stdout.")] = False

    def __post_init__(self) -> None:
        if self.json + self.csv + self.quiet > 1:
            raise UsageError("--json, --csv and --quiet exclude one another; give one of them")


Npz = Annotated[bool, option("--npz", help="Also write the maps as arrays: maps.npz.")]


@dataclass(frozen=True, repr=False, eq=False)
class BatchOptions:
    """How many pictures are done."""

    pictures: Annotated[
        Literal["sheet", "heads", "none"],
        option("--pictures", help="Of each picture: its sheet, all that show writes, or nothing."),
    ] = "sheet"
    batch_size: Annotated[
        str, option("--batch-size", help="Pictures in a run of the model, or auto.", metavar="N")
    ] = "auto"
    recursive: Annotated[
        bool, option("--recursive/--no-recursive", help="Also what is in subfolders.")
    ] = True
    force: Annotated[bool, option("--force", help="Do again what is done.")] = False
    npz: Npz = False
    finalizers: Finalizers = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.batch
        if self.npz and self.pictures == "none":
            raise UsageError("--npz lies beside the sheet; leave out --pictures none")

    @property
    def batch(self) -> int | None:
        """Pictures in a run of the model; None of what fits."""
        text = self.batch_size
        if text == "auto":
            return None
        if not (text.isascii() and text.isdigit() and int(text)):
            raise UsageError(f"--batch-size {text!r} is none; give auto, or a number from 1 on")
        return int(text)


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="Folders, patterns in quotes ('photos/*.jpg'), .txt lists of paths.",
    ),
]
ComparedNpz = Annotated[bool, option("--npz", help="Also write what is compared: compare.npz.")]
NoPreview = Annotated[bool, option("--no-preview", help="Do not draw the sheet in the terminal.")]
Out = Annotated[Path, option("--out", "-o", help="Folder for the files.", metavar="FOLDER")]
FILMS = (".mp4", ".mov", ".mkv", ".webm")
"""Endings of films that can be written."""
FilmOut = Annotated[
    Path,
    option(
        "--out",
        "-o",
        help=f"The film ({', '.join(FILMS)}), or a folder for it.",
        metavar="FILE",
    ),
]
PageOut = Annotated[
    Path | None,
    option(
        "--out",
        "-o",
        help="The page, or a folder for it.  [default: attnviz-out/IMAGE.html]",
        metavar="FILE",
    ),
]
OptionalOut = Annotated[
    Path | None,
    option("--out", "-o", help="Also write stats.json and stats.csv here.", metavar="FOLDER"),
]


EvaluationOut = Annotated[
    Path | None,
    option(
        "--out",
        "-o",
        help="Also write evaluation.jsonl, .csv and .png here; what is done is not done again.",
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
        help="Folder with a mask for each picture, or the mask of the only one.",
        metavar="PATH",
    ),
]
Metrics = Annotated[
    str | None,
    option(
        "--metrics",
        help="masks, perturbation or both.  [default: masks with --masks, else perturbation]",
        metavar="WHICH",
    ),
]
Limit = Annotated[int | None, option("--limit", help="The first so many pictures only.", min=1)]
