"""Models: where they come from. `SOURCES` is the table, `load_model` the door."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from attnviz.errors import UsageError
from attnviz.models.model_request import ModelRequest
from attnviz.models.targets import Head
from attnviz.registry import TableEntry

if TYPE_CHECKING:
    from attnviz.models.model import Model

SOURCES: dict[str, TableEntry] = {
    "tiny": TableEntry(
        "attnviz.models.tiny:load",
        "the embedded model: 6 layers of 8 heads, trained on drawn scenes; no download, no extra",
        "docs/tiny.md, its model card; Dosovitskiy et al. 2021, arXiv 2010.11929",
    ),
    "random": TableEntry(
        "attnviz.models.random:load",
        "one multi-head attention layer, randomly initialised from --seed, or yours by --weights",
        "Vaswani et al. 2017, arXiv 1706.03762",
    ),
    "hf": TableEntry(
        "attnviz.models.huggingface:load",
        "hf:ORG/NAME[@REV] or a checkpoint folder: vision models of transformers",
        "Wolf et al. 2020, arXiv 1910.03771",
    ),
    "timm": TableEntry(
        "attnviz.models.timm_models:load",
        "timm:NAME or timm:hf_hub:ORG/NAME: PyTorch Image Models",
        "Wightman 2019, doi 10.5281/zenodo.4414861",
    ),
    "torchvision": TableEntry(
        "attnviz.models.torchvision_models:load",
        "torchvision:NAME: the classification models of torchvision",
        "TorchVision maintainers 2016, github.com/pytorch/vision",
    ),
    "py": TableEntry(
        "attnviz.models.own:load",
        "py:MODULE:FACTORY or py:FILE.py:FACTORY: your own nn.Module, or what makes one",
        "your own code, which is run",
    ),
}
DEFAULT = "tiny"
EMBEDDED = ("tiny", "random")
"""Sources that are named alone: they make one model."""


def find_source(spec: str) -> str:
    """The source of the table that a spec belongs to.

    >>> find_source("hf:facebook/dinov2-small")
    'hf'
    >>> find_source("eva02-tiny")
    'timm'

    Raises:
        UsageError: none.
    """
    source, colon, _ = spec.partition(":")
    if spec in EMBEDDED or (colon and source in SOURCES and source not in EMBEDDED):
        return source
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — names above need no table

    if spec in ALIASES:
        return find_source(ALIASES[spec].spec)
    if os.path.isdir(spec):  # noqa: PTH112 — pathlib costs start-up
        return "hf"
    from attnviz.models.failures import nearest  # noqa: PLC0415 — for a slip of the pen only

    raise UsageError(
        f"no model {spec!r}{nearest(spec)}; give tiny, random, a name that `attnviz models` "
        "lists, a checkpoint folder that is there, hf:ORG/NAME, timm:NAME, torchvision:NAME or "
        "py:MODULE:FACTORY"
    )


def load_model(
    spec: str = DEFAULT,
    *,
    heads: int | None = None,
    features: int | None = None,
    tokens: Literal["patches", "pixels"] = "patches",
    patch: int | None = None,
    size: int | None = None,
    weights: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    head: Head = "none",
) -> "Model":
    """Load a model by its spec, ready to be observed.

    Args:
        spec: `tiny`, `random`, an alias that `attnviz models` lists, `hf:ORG/NAME[@REV]`, a
            checkpoint folder, `timm:NAME`, `torchvision:NAME` or `py:MODULE:FACTORY`.
        heads: number of heads that `random` is built with, 8 unless given.
        features: width of `random`, a multiple of `heads`.
        tokens: what a token is: a patch, or (`random` only) a single pixel.
        patch: patch side of `random` in input pixels, 16 unless given; of `py:` what the sides of
            the input are rounded to, where the module does not say.
        size: input size S: the input covers about S×S pixels; 224 for patches, 64 for pixels, a
            pretrained model's own.
        weights: a `.safetensors` or `.pt` state dict for the model.
        random_weights: the same architecture, randomly initialised from `seed`.
        seed: of random weights; for `random` the same numbers on every machine.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `float32`, `bfloat16` or `float16`.
        head: of its checkpoint; the attention is the same. `none` reads none where it can be left
            out; with `class` the module gives logits, (batch, classes); `any` is that where the
            checkpoint has a class head, else `none`; with `text` it gives the embedding of the
            picture, (batch, features), and the model has that of texts. A module of `py:` is what
            its factory makes of it.

    >>> load_model("random", heads=8).heads
    8

    Raises:
        UsageError: unknown spec, or options that do not fit it or one another.
        ModelError: a model or weights that cannot be used, or no such head.
        MissingExtraError: a library that is not installed.
        DeviceError: the device is not there.
    """
    if head not in get_args(Head):
        raise UsageError(f"head={head!r} is none; give one of {', '.join(get_args(Head))}")
    if weights is not None and random_weights:
        raise UsageError("--weights and --random-weights exclude one another; give one of them")
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — not for `--help`

    alias = ALIASES.get(spec)
    request = ModelRequest(
        spec=alias.spec if alias else spec,
        heads=heads,
        features=features,
        tokens=tokens,
        patch=patch,
        size=size,
        weights=weights,
        random_weights=random_weights,
        seed=seed,
        device=device,
        dtype=dtype,
        head=head,
        alias=alias,
    )
    model: Model = SOURCES[find_source(spec)].load()(request)
    return replace(model, spec=spec, size_given=size is not None)
