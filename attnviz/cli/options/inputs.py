"""Options of the model and its input."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from attnviz import models
from attnviz.cli.options.completion import DEVICES, RANGES, model_names
from attnviz.cli.options.groups import MACHINE, MODEL, PICTURES, option
from attnviz.errors import UsageError
from attnviz.io.ranges import FULL, PERCENTS, parse_range

_WEIGHTS = "State dict for the model: .safetensors, or .pt, which is read without running code"


@dataclass(frozen=True, repr=False, eq=False)
class ShownOptions:
    """How a model is built and gets the picture, without the options of its weights."""

    tokens: Annotated[
        Literal["patches", "pixels"],
        option("--tokens", panel=MODEL, help="What a token is; pixels for random only."),
    ] = "patches"
    patch: Annotated[
        int | None,
        option(
            "--patch",
            panel=MODEL,
            help="Patch side in input pixels, of random or your own module.  [default: 16]",
            min=1,
            max=4096,
        ),
    ] = None
    features: Annotated[
        int | None,
        option(
            "--features",
            panel=MODEL,
            help="Width of the random model, a multiple of its heads.  [default: 64]",
            min=1,
            max=65536,
        ),
    ] = None
    size: Annotated[
        int | None,
        option(
            "--size",
            panel=MODEL,
            help="Input size S: the input covers about S×S pixels.  [default: the model's own]",
            min=1,
            max=16384,
        ),
    ] = None
    fit: Annotated[
        Literal["keep", "crop", "pad", "squash"],
        option("--fit", panel=MODEL, help="How the picture is fitted into the model's input."),
    ] = "keep"
    mask: Annotated[
        str | None,
        option(
            "--mask",
            panel=MODEL,
            help="Picture of the same size; its black part takes no part in attention.",
            metavar="FILE",
        ),
    ] = None
    device: Annotated[
        str,
        option(
            "--device",
            panel=MACHINE,
            complete=lambda: DEVICES,
            help="Device: auto, cpu, cuda, cuda:N or mps.",
            metavar="NAME",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        option(
            "--dtype",
            panel=MACHINE,
            help="Number type that the model computes in; statistics are always float32.",
        ),
    ] = "float32"
    seed: Annotated[
        int, option("--seed", panel=MACHINE, help="Random seed.", min=0, max=2**32 - 1)
    ] = 0


@dataclass(frozen=True, repr=False, eq=False)
class InputOptions(ShownOptions):
    """How a model is loaded, and how it gets the picture."""

    weights: Annotated[
        str | None,
        option("--weights", panel=MODEL, help=f"{_WEIGHTS}.", metavar="FILE"),
    ] = None
    random_weights: Annotated[
        bool,
        option(
            "--random-weights",
            panel=MODEL,
            help="Use the same architecture with random weights from --seed, as a control.",
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.weights is not None and self.random_weights:
            raise UsageError("--weights and --random-weights exclude one another; give one")


@dataclass(frozen=True, repr=False, eq=False)
class ReadingOptions:
    """How picture files are read."""

    range: Annotated[
        str,
        option(
            "--range",
            panel=PICTURES,
            complete=lambda: RANGES,
            help="Values that become black and white, for pictures of more than 8 bits: full (the "
            f"file type's range), percentile ({PERCENTS[0]} to {PERCENTS[1]}) or LO:HI.",
            metavar="VALUES",
        ),
    ] = FULL

    def __post_init__(self) -> None:
        parse_range(self.range)


_MODEL = option(
    "--model",
    "-m",
    panel=MODEL,
    complete=model_names,
    help="Model; `attnviz models` lists them.",
    metavar="SPEC",
)
_MODELS = option(
    "--model",
    "-m",
    panel=MODEL,
    complete=model_names,
    help=f"Model; `attnviz models` lists them. May be repeated.  [default: {models.DEFAULT}]",
    metavar="SPEC",
)


@dataclass(frozen=True, repr=False, eq=False)
class ModelOptions(InputOptions):
    """Which model, and how it gets the picture."""

    model: Annotated[str, _MODEL] = models.DEFAULT

    def __post_init__(self) -> None:
        models.find_source(self.model)
        super().__post_init__()


@dataclass(frozen=True, repr=False, eq=False)
class ModelsOptions:
    """Which models to evaluate."""

    model: Annotated[list[str] | None, _MODELS] = None

    def __post_init__(self) -> None:
        for spec in self.models:
            models.find_source(spec)

    @property
    def models(self) -> tuple[str, ...]:
        """Specs of the models, each once."""
        return tuple(dict.fromkeys(self.model or [models.DEFAULT]))


@dataclass(frozen=True, repr=False, eq=False)
class RivalOptions(ShownOptions):
    """Which models to compare, and with which weights."""

    model: Annotated[list[str] | None, _MODELS] = None
    weights: Annotated[
        list[str] | None,
        option("--weights", panel=MODEL, help=f"{_WEIGHTS}. May be repeated.", metavar="FILE"),
    ] = None
    random_weights: Annotated[
        bool,
        option(
            "--random-weights",
            panel=MODEL,
            help="Also compare each model with its control: the same one with random weights.",
        ),
    ] = False

    def __post_init__(self) -> None:
        ModelsOptions(self.model)
        if self.weights and len(self.model or ()) > 1:
            raise UsageError("--weights belongs to one model; give one --model")

    @property
    def rivals(self) -> tuple[tuple[str, InputOptions], ...]:
        """The spec of each model and how it is loaded, without the controls."""
        shown = {field.name: getattr(self, field.name) for field in fields(ShownOptions)}
        return tuple(
            (spec, InputOptions(weights=weights, **shown))
            for spec in ModelsOptions(self.model).models
            for weights in (dict.fromkeys(self.weights) if self.weights else (None,))
        )

    @property
    def controls(self) -> int:
        """The number of requested controls: the same models with random weights."""
        if not self.random_weights:
            return 0
        return sum(
            not models.SOURCES[models.find_source(spec)].no_control
            and (spec != "random" or inputs.weights is not None)
            for spec, inputs in self.rivals
        )
