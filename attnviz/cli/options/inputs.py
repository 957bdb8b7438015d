"""Options of the model and its input."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from attnviz import models
from attnviz.cli.options.groups import option
from attnviz.errors import UsageError
from attnviz.io.ranges import FULL, PERCENTS, parse_range

_WEIGHTS = "State dict for the model: .safetensors, or .pt, which is never unpickled freely"


@dataclass(frozen=True, repr=False, eq=False)
class ShownOptions:
    """How a model is built, and how the picture is given to it; its weights apart."""

    tokens: Annotated[Literal["patches", "pixels"], option("--tokens", help="What a token is.")] = (
        "patches"
    )
    patch: Annotated[
        int | None,
        option(
            "--patch",
            help="Patch side of random, or of a model of your own.  [default: 16]",
            min=1,
            max=4096,
        ),
    ] = None
    features: Annotated[
        int | None,
        option(
            "--features",
            help="Width of the random model, a multiple of its heads.  [default: 64]",
            min=1,
            max=65536,
        ),
    ] = None
    size: Annotated[
        int | None,
        option(
            "--size",
            help="Input size S: about S×S pixels.  [default: the model's own]",
            min=1,
            max=16384,
        ),
    ] = None
    fit: Annotated[
        Literal["keep", "crop", "pad", "squash"],
        option("--fit", help="How the picture becomes the input; keep keeps its shape."),
    ] = "keep"
    mask: Annotated[
        str | None,
        option("--mask", help="Picture of the same size: black takes no part.", metavar="FILE"),
    ] = None
    device: Annotated[
        str, option("--device", help="auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
    ] = "auto"
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        option("--dtype", help="What the model computes in; statistics are float32."),
    ] = "float32"
    seed: Annotated[
        int, option("--seed", help="Of all that is drawn at random.", min=0, max=2**32 - 1)
    ] = 0


@dataclass(frozen=True, repr=False, eq=False)
class InputOptions(ShownOptions):
    """How a model is made, and the picture given to it."""

    weights: Annotated[
        str | None,
        option("--weights", help=f"{_WEIGHTS}.", metavar="FILE"),
    ] = None
    random_weights: Annotated[
        bool,
        option(
            "--random-weights",
            help="The same architecture, randomly initialised from --seed: the control.",
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
            help="Values that are black and white, of pictures of more than 8 bits: full (of the "
            f"file's type), percentile ({PERCENTS[0]} to {PERCENTS[1]}), or LO:HI.",
            metavar="VALUES",
        ),
    ] = FULL

    def __post_init__(self) -> None:
        parse_range(self.range)


_MODEL = option("--model", "-m", help="A model that `attnviz models` lists.", metavar="SPEC")
_MODELS = option(
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
class ModelsOptions:
    """Which models, to be compared."""

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
    """Which models, with which weights, to be laid beside each other."""

    model: Annotated[list[str] | None, _MODELS] = None
    weights: Annotated[
        list[str] | None,
        option("--weights", help=f"{_WEIGHTS}; may be repeated.", metavar="FILE"),
    ] = None
    random_weights: Annotated[
        bool,
        option(
            "--random-weights",
            help="Beside each model, the same architecture with random weights: the control.",
        ),
    ] = False

    def __post_init__(self) -> None:
        ModelsOptions(self.model)
        if self.weights and len(self.model or ()) > 1:
            raise UsageError("--weights are those of one model; give one --model")

    @property
    def rivals(self) -> tuple[tuple[str, InputOptions], ...]:
        """Each model by its spec, and how it is made; without the controls."""
        shown = {field.name: getattr(self, field.name) for field in fields(ShownOptions)}
        return tuple(
            (spec, InputOptions(weights=weights, **shown))
            for spec in ModelsOptions(self.model).models
            for weights in (dict.fromkeys(self.weights) if self.weights else (None,))
        )

    @property
    def controls(self) -> int:
        """How many have a control, the same with random weights, if they are asked for."""
        if not self.random_weights:
            return 0
        return sum(
            not models.SOURCES[models.find_source(spec)].no_control
            and (spec != "random" or inputs.weights is not None)
            for spec, inputs in self.rivals
        )
