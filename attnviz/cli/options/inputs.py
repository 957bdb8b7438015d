"""Options of the model and its input."""

import glob
import os
import re
from dataclasses import dataclass, fields
from typing import Any, Literal

from attnviz import models
from attnviz.cli.options.completion import DEVICES, model_names
from attnviz.cli.options.groups import MACHINE, MODEL, option_field
from attnviz.errors import UsageError
from attnviz.models.settings import (
    FILTERS,
    NAMED,
    SUFFIXES,
    parse_filter,
    parse_input,
    parse_output,
    parse_settings,
    parse_statistic,
)

_WEIGHTS = "Weights: .pt .pth .bin .ckpt .safetensors .npz; pickles in them are never executed"


@dataclass(frozen=True, repr=False, eq=False)
class ShownOptions:
    """How a model is built and gets the picture, without the options of its weights."""

    tokens: Literal["patches", "pixels"] = option_field(
        "patches", "What a token is; pixels for random only.", MODEL
    )
    patch: int | None = option_field(
        None,
        "Patch side in input pixels, of random or your own module.  [default: 16]",
        MODEL,
        min=1,
        max=4096,
    )
    features: int | None = option_field(
        None,
        "Width of the random model, a multiple of its heads.  [default: 64]",
        MODEL,
        min=1,
        max=65536,
    )
    size: int | None = option_field(
        None,
        "Input size S: the input covers about S×S pixels.  [default: the model's own]",
        MODEL,
        min=1,
        max=16384,
    )
    mean: str | None = option_field(
        None,
        "Mean of pixel values 0 to 1: a number, one for each channel (R,G,B), imagenet, half or "
        "none.  "
        "[default: what the model states]",
        MODEL,
        complete=lambda: NAMED["mean"],
        metavar="VALUES",
    )
    std: str | None = option_field(
        None,
        "Standard deviation of pixel values, as --mean.",
        MODEL,
        complete=lambda: NAMED["std"],
        metavar="VALUES",
    )
    settings: list[str] | None = option_field(
        None,
        "Argument of the factory or the forward of py:, or heads, act, eps or pool of a checkpoint "
        "file. May be repeated.",
        MODEL,
        names="--set",
        metavar="NAME=VALUE",
    )
    key: str | None = option_field(
        None,
        "Which of several models in a file of weights, such as teacher or model_ema.  "
        "[default: state_dict, model, teacher …]",
        MODEL,
        metavar="NAME",
    )
    base: str | None = option_field(
        None,
        "Model that an adapter folder of PEFT was trained on.  [default: as its config names it]",
        MODEL,
        metavar="FOLDER",
    )
    input: str | None = option_field(
        None,
        "Argument of the forward of py: that takes the pixels; NAME[KEY] or [KEY] for a dict, [] "
        "for a list of pictures.  [default: pixel_values, else the first]",
        MODEL,
        metavar="NAME",
    )
    output: str | None = option_field(
        None,
        "Part of the output of py: that holds the logits, such as logits, 1 or heads.species.",
        MODEL,
        metavar="NAME",
    )
    resize: str | None = option_field(
        None,
        "Filter that resizes the picture: nearest, bilinear, bicubic, lanczos, box or hamming.  "
        "[default: the model's own]",
        MODEL,
        complete=lambda: FILTERS,
        metavar="FILTER",
    )
    fit: Literal["keep", "crop", "pad", "squash"] = option_field(
        "keep", "How the picture is fitted into the model's input.", MODEL
    )
    mask: str | None = option_field(
        None,
        "Picture of the same size; its black part takes no part in attention.",
        MODEL,
        metavar="FILE",
    )
    device: str = option_field(
        "auto",
        "Device: auto, cpu, cuda, cuda:N or mps.",
        MACHINE,
        complete=lambda: DEVICES,
        metavar="NAME",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option_field(
        "float32", "Number type that the model computes in; statistics are always float32.", MACHINE
    )
    seed: int = option_field(0, "Random seed.", MACHINE, min=0, max=2**32 - 1)

    def __post_init__(self) -> None:
        parse_settings(self.settings or ())
        parse_input(self.input)
        parse_output(self.output)
        if self.resize is not None:
            parse_filter(self.resize)
        for name, text in (("mean", self.mean), ("std", self.std)):
            if text is not None:
                parse_statistic(name, text)


@dataclass(frozen=True, repr=False, eq=False)
class InputOptions(ShownOptions):
    """How a model is loaded, and how it gets the picture."""

    weights: str | None = option_field(None, f"{_WEIGHTS}.", MODEL, metavar="FILE")
    random_weights: bool = option_field(
        False, "Use the same architecture with random weights from --seed, as a control.", MODEL
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.random_weights:
            raise UsageError("--weights and --random-weights exclude one another; give one")


_SPEC: dict[str, Any] = {
    "panel": MODEL,
    "names": "--model -m",
    "complete": model_names,
    "metavar": "SPEC",
}
_MODEL = "Model, or a checkpoint folder or file; `attnviz models` lists models."
_MODELS = f"{_MODEL} May be repeated.  [default: {models.DEFAULT}]"


@dataclass(frozen=True, repr=False, eq=False)
class ModelOptions(InputOptions):
    """Which model, and how it gets the picture."""

    model: str = option_field(models.DEFAULT, _MODEL, **_SPEC)

    def __post_init__(self) -> None:
        models.find_source(self.model)
        super().__post_init__()


def _files(spec: str) -> list[str]:
    """The files of a pattern such as `run/epoch*.ckpt`, 2 before 10; another spec alone.

    Raises:
        UsageError: no file is named so.
    """
    if not spec.lower().endswith(SUFFIXES) or not glob.has_magic(spec) or os.path.isfile(spec):  # noqa: PTH113
        return [spec]
    files = sorted(glob.glob(spec), key=by_number)  # noqa: PTH207 — pathlib costs start-up
    if not files:
        raise UsageError(f"no file is named {spec}; check the pattern")
    return files


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


@dataclass(frozen=True, repr=False, eq=False)
class ModelsOptions:
    """Which models to evaluate."""

    model: list[str] | None = option_field(None, _MODELS, **_SPEC)

    def __post_init__(self) -> None:
        for spec in self.models:
            models.find_source(spec)

    @property
    def models(self) -> tuple[str, ...]:
        """Specs of the models, each once; a pattern of files stands for all of them, by number."""
        specs = [each for spec in self.model or [models.DEFAULT] for each in _files(spec)]
        return tuple(dict.fromkeys(specs))


@dataclass(frozen=True, repr=False, eq=False)
class RivalOptions(ShownOptions):
    """Which models to compare, and with which weights."""

    model: list[str] | None = option_field(None, _MODELS, **_SPEC)
    weights: list[str] | None = option_field(
        None, f"{_WEIGHTS}. May be repeated.", MODEL, metavar="FILE"
    )
    random_weights: bool = option_field(
        False, "Also compare each model with its control: the same one with random weights.", MODEL
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
