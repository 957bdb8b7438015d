"""Options that choose what is drawn, written and printed."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnviz.cli.options.completion import METRICS, SCALES, colormap_names
from attnviz.cli.options.groups import LOOK, OUTPUT, PICTURES, choices, option
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError
from attnviz.output import FORMATS

if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = choices(FORMATS)

Json = Annotated[bool, option("--json", panel=OUTPUT, help="Print one JSON object per line.")]
"""The option `--json` of the commands that list something."""


@dataclass(frozen=True, repr=False, eq=False)
class LookOptions:
    """How maps look over the picture."""

    colormap: Annotated[
        str,
        option(
            "--colormap",
            panel=PICTURES,
            complete=colormap_names,
            help="Matplotlib colour map.",
            metavar="NAME",
        ),
    ] = "viridis"
    alpha: Annotated[
        float,
        option(
            "--alpha",
            panel=PICTURES,
            help="Share of the map's colour in the overlay.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.5
    interpolation: Annotated[
        Literal["bicubic", "nearest"],
        option(
            "--interpolation",
            panel=PICTURES,
            help="Draw maps smoothly, or each token as a block (nearest).",
        ),
    ] = "bicubic"


@dataclass(frozen=True, repr=False, eq=False)
class StyleOptions(LookOptions):
    """How maps look over the picture, and the format of the files."""

    format: Annotated[
        FormatName, option("--format", panel=PICTURES, help="Format of the picture files.")
    ] = "png"


@dataclass(frozen=True, repr=False, eq=False)
class ScaleOptions:
    """The range of weights that the colours span."""

    scale: Annotated[
        str,
        option(
            "--scale",
            panel=PICTURES,
            complete=lambda: SCALES,
            help="Weights that the colours span: head (each map), layer, all, LO:HI or log.",
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
            panel=PICTURES,
            help="Also write a moving picture with one frame per layer, or per head.",
        ),
    ] = None
    movie: Annotated[
        Literal["webp", "gif", "apng", "mp4"] | None,
        option(
            "--movie",
            panel=PICTURES,
            help="Format of the moving picture; mp4 needs the extra video.  [default: webp]",
        ),
    ] = None
    fps: Annotated[
        float | None,
        option(
            "--fps", panel=PICTURES, help="Frames per second.  [default: 2]", min=0.05, max=50.0
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("--movie", self.movie), ("--fps", self.fps)):
            if value is not None and self.animate is None:
                raise UsageError(f"{name} needs a moving picture; add --animate layers, or heads")

    def values(self) -> dict[str, Any]:
        """The given values by name, as arguments of `Drawing`."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, repr=False, eq=False)
class PageOptions(ScaleOptions, LookOptions):
    """How a page draws maps at first."""


@dataclass(frozen=True, repr=False, eq=False)
class ClipOptions(ScaleOptions, LookOptions):
    """How the frames of a clip are drawn."""


@dataclass(frozen=True, repr=False, eq=False)
class DifferenceOptions(StyleOptions):
    """How maps and their differences are drawn."""

    diverging: Annotated[
        str,
        option(
            "--diverging",
            panel=PICTURES,
            complete=colormap_names,
            help="Matplotlib colour map for differences; its middle is 0.",
            metavar="NAME",
        ),
    ] = "RdBu_r"


@dataclass(frozen=True, repr=False, eq=False)
class ToldOptions:
    """What goes to standard output, for commands without tables."""

    json: Annotated[
        bool, option("--json", panel=OUTPUT, help="Print JSON, one object per line.")
    ] = False
    quiet: Annotated[
        bool, option("--quiet", panel=OUTPUT, help="Print only the paths of the files written.")
    ] = False
    debug: Annotated[
        bool, option("--debug", panel=OUTPUT, help="Show the traceback of an error.")
    ] = False

    def __post_init__(self) -> None:
        if self.json and self.quiet:
            raise UsageError("--json and --quiet exclude one another; give one of them")


@dataclass(frozen=True, repr=False, eq=False)
class StreamOptions(ToldOptions):
    """What goes to standard output."""

    csv: Annotated[bool, option("--csv", panel=OUTPUT, help="Print CSV.")] = False

    def __post_init__(self) -> None:
        if self.json + self.csv + self.quiet > 1:
            raise UsageError("--json, --csv and --quiet exclude one another; give one of them")


Npz = Annotated[
    bool, option("--npz", panel=OUTPUT, help="Also write the maps as arrays: maps.npz.")
]


ComparedNpz = Annotated[
    bool, option("--npz", panel=OUTPUT, help="Also write the compared maps as arrays: compare.npz.")
]
NoPreview = Annotated[
    bool,
    option("--no-preview", panel=PICTURES, help="Do not draw the sheet in the terminal."),
]
Out = Annotated[
    Path, option("--out", "-o", panel=OUTPUT, help="Folder for the files.", metavar="FOLDER")
]
FILMS = (".mp4", ".mov", ".mkv", ".webm")
"""The endings of films that attnviz can write."""
FilmOut = Annotated[
    Path,
    option(
        "--out",
        "-o",
        panel=OUTPUT,
        help=f"Film file ({', '.join(FILMS)}), or a folder for it.",
        metavar="FILE",
    ),
]
PageOut = Annotated[
    Path | None,
    option(
        "--out",
        "-o",
        panel=OUTPUT,
        help="Page file, or a folder for it.  [default: attnviz-out/IMAGE.html]",
        metavar="FILE",
    ),
]
OptionalOut = Annotated[
    Path | None,
    option(
        "--out",
        "-o",
        panel=OUTPUT,
        help="Also write stats.json and stats.csv into this folder.",
        metavar="FOLDER",
    ),
]


EvaluationOut = Annotated[
    Path | None,
    option(
        "--out",
        "-o",
        panel=OUTPUT,
        help="Also write evaluation.jsonl, .csv and .png into this folder. A second run continues "
        "there.",
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
        panel=LOOK,
        help="Folder with one mask per picture, or the mask of a single picture.",
        metavar="PATH",
    ),
]
Metrics = Annotated[
    str | None,
    option(
        "--metrics",
        panel=LOOK,
        complete=lambda: METRICS,
        help="Groups of numbers: masks, perturbation or masks,perturbation.  [default: masks with "
        "--masks, else perturbation]",
        metavar="WHICH",
    ),
]
Limit = Annotated[
    int | None, option("--limit", help="Use only the first N pictures.", metavar="N", min=1)
]
