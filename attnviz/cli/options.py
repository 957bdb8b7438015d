"""Every option, declared once; a command takes the groups that it needs.

Nothing here imports torch, numpy or matplotlib: `--help` and a slip of the pen are answered at
once. A group checks its own values when it is made; it compares and prints nothing, since what a
dataclass need not generate costs no start-up.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from attnviz import methods, models, queries
from attnviz.drawing.scale import parse_scale
from attnviz.errors import UsageError
from attnviz.selection import parse_heads, parse_layers

Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGE...", help="Pictures; `-` reads one from standard input."),
]


def _show_help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


Help = Annotated[
    bool,
    typer.Option(
        "--help", "-h", callback=_show_help, is_eager=True, help="Show this message and exit."
    ),
]
"""Typer's own help option is coerced by pydantic even when it is absent: 0.15 s for nothing."""


Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
"""Of the commands that list something."""


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, **settings)


@dataclass(frozen=True, repr=False, eq=False)
class InputOptions:
    """How a model is made, and the picture given to it."""

    weights: Annotated[
        str | None,
        _option(
            "--weights",
            help="State dict for the model: .safetensors, or .pt, which is never unpickled freely.",
            metavar="FILE",
        ),
    ] = None
    random_weights: Annotated[
        bool,
        _option(
            "--random-weights",
            help="The same architecture, randomly initialised from --seed: the control.",
        ),
    ] = False
    tokens: Annotated[
        Literal["patches", "pixels"], _option("--tokens", help="What a token is.")
    ] = "patches"
    patch: Annotated[
        int | None,
        _option(
            "--patch",
            help="Patch side of random, or of a model of your own.  [default: 16]",
            min=1,
            max=4096,
        ),
    ] = None
    features: Annotated[
        int | None,
        _option(
            "--features",
            help="Width of the random model, a multiple of its heads.  [default: 64]",
            min=1,
            max=65536,
        ),
    ] = None
    size: Annotated[
        int | None,
        _option(
            "--size",
            help="Input size S: about S×S pixels.  [default: the model's own]",
            min=1,
            max=16384,
        ),
    ] = None
    fit: Annotated[
        Literal["keep", "crop", "pad", "squash"],
        _option("--fit", help="How the picture becomes the input; keep keeps its shape."),
    ] = "keep"
    mask: Annotated[
        str | None,
        _option("--mask", help="Picture of the same size: black takes no part.", metavar="FILE"),
    ] = None
    device: Annotated[
        str, _option("--device", help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        _option("--dtype", help="What the model computes in; statistics are float32."),
    ] = "float32"
    seed: Annotated[
        int, _option("--seed", help="Of all that is drawn at random.", min=0, max=2**32 - 1)
    ] = 0

    def __post_init__(self) -> None:
        if self.weights is not None and self.random_weights:
            raise UsageError("--weights and --random-weights exclude one another; give one")


_MODEL = _option("--model", "-m", help="A model that `attnviz models` lists.", metavar="SPEC")
_MODELS = _option(
    "--model",
    "-m",
    help=f"A model that `attnviz models` lists; may be repeated.  [default: {models.DEFAULT}]",
    metavar="SPEC",
)


@dataclass(frozen=True, repr=False, eq=False)
class ModelOptions(InputOptions):
    """Which model, and how the picture is given to it."""

    model: Annotated[str, _MODEL] = models.DEFAULT

    def __post_init__(self) -> None:
        models.find_source(self.model)
        super().__post_init__()


@dataclass(frozen=True, repr=False, eq=False)
class WhereOptions:
    """Which maps: heads, layers, and where they look from."""

    heads: Annotated[
        str,
        _option("--heads", help="all, a count (8), or a list (0,3,5-7).", metavar="WHICH"),
    ] = "all"
    layers: Annotated[
        str,
        _option("--layers", help="-1 (the last), all, or a list (0,5-11).", metavar="WHICH"),
    ] = "-1"
    query: Annotated[
        str,
        _option(
            "--query",
            "-q",
            help="Where to look from: auto, cls, mean, pool, X,Y, X0,Y0,X1,Y1 or a mask picture.",
            metavar="WHERE",
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        parse_heads(self.heads)
        parse_layers(self.layers)
        queries.parse(self.query)


_METHOD = _option("--method", help="A method that `attnviz methods` lists.", metavar="NAME")
_METHODS = _option(
    "--method",
    help=f"A method that `attnviz methods` lists; may be repeated.  [default: {methods.DEFAULT}]",
    metavar="NAME",
)


@dataclass(frozen=True, repr=False, eq=False)
class QuestionOptions(WhereOptions):
    """What is asked."""

    method: Annotated[str, _METHOD] = methods.DEFAULT

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_method(self.method)


def _check_method(name: str) -> None:
    if name not in methods.METHODS:
        raise UsageError(f"--method {name!r} is none; take {', '.join(methods.METHODS)}")


@dataclass(frozen=True, repr=False, eq=False)
class ManyOptions:
    """Which models and methods, to be compared."""

    model: Annotated[list[str] | None, _MODELS] = None
    method: Annotated[list[str] | None, _METHODS] = None

    def __post_init__(self) -> None:
        for spec in self.models:
            models.find_source(spec)
        for name in self.methods:
            _check_method(name)

    @property
    def models(self) -> tuple[str, ...]:
        """Specs of the models, each once."""
        return tuple(dict.fromkeys(self.model or [models.DEFAULT]))

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, each once."""
        return tuple(dict.fromkeys(self.method or [methods.DEFAULT]))


@dataclass(frozen=True, repr=False, eq=False)
class DrawingOptions:
    """How maps are drawn."""

    scale: Annotated[
        str,
        _option(
            "--scale",
            help="Weights that the colours span: head, layer, all, LO:HI or log.",
            metavar="RANGE",
        ),
    ] = "head"
    colormap: Annotated[
        str, _option("--colormap", help="A matplotlib colour map.", metavar="NAME")
    ] = "viridis"
    alpha: Annotated[
        float, _option("--alpha", help="Share of the colour in the overlay.", min=0.0, max=1.0)
    ] = 0.5
    interpolation: Annotated[
        Literal["bicubic", "nearest"],
        _option("--interpolation", help="Smooth maps, or tokens as they are."),
    ] = "bicubic"
    format: Annotated[
        Literal["png", "jpg", "webp"], _option("--format", help="Of the pictures written.")
    ] = "png"

    def __post_init__(self) -> None:
        parse_scale(self.scale)


@dataclass(frozen=True, repr=False, eq=False)
class StreamOptions:
    """What goes to standard output."""

    json: Annotated[bool, _option("--json", help="JSON on stdout, one object a line.")] = False
    csv: Annotated[bool, _option("--csv", help="CSV on stdout.")] = False
    quiet: Annotated[bool, _option("--quiet", help="Print the paths of files only.")] = False
    debug: Annotated[bool, _option("--debug", help="Show the traceback of an error.")] = False

    def __post_init__(self) -> None:
        if self.json + self.csv + self.quiet > 1:
            raise UsageError("--json, --csv and --quiet exclude one another; give one of them")


Npz = Annotated[bool, _option("--npz", help="Also write the maps as arrays: maps.npz.")]
NoPreview = Annotated[bool, _option("--no-preview", help="Do not draw the sheet in the terminal.")]
Out = Annotated[Path, _option("--out", "-o", help="Folder for the files.", metavar="FOLDER")]
OptionalOut = Annotated[
    Path | None,
    _option("--out", "-o", help="Also write stats.json and stats.csv here.", metavar="FOLDER"),
]


EvaluationOut = Annotated[
    Path | None,
    _option(
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
    _option(
        "--masks",
        help="Folder with a mask for each picture, or the mask of the only one.",
        metavar="PATH",
    ),
]
Metrics = Annotated[
    str | None,
    _option(
        "--metrics",
        help="masks, perturbation or both.  [default: masks with --masks, else perturbation]",
        metavar="WHICH",
    ),
]
Limit = Annotated[int | None, _option("--limit", help="The first so many pictures only.", min=1)]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--help`, and an option for each field of the groups among its parameters.

    Typer sees one flat signature; the command gets its groups made and checked.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}

    @functools.wraps(command)
    def flat(*, help: bool, **values: Any) -> None:  # noqa: ARG001, A002 — its callback acts
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**made, **values)

    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    parameters.append(
        inspect.Parameter("help", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Help)
    )
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    own = inspect.get_annotations(group)  # these come before those of the group that it extends
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in sorted(fields(group), key=lambda field: field.name not in own)
    ]
