"""Models: where they come from. `SOURCES` is the table, `load_model` the door."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from attnviz.errors import UsageError
from attnviz.models.model_request import ModelRequest
from attnviz.models.targets import Head
from attnviz.registry import Table, TableEntry, load

if TYPE_CHECKING:
    from attnviz.models.model import Model


@dataclass(frozen=True)
class Source(TableEntry):
    """Where models come from: a function of a `ModelRequest` that returns a `Model`.

    Attributes:
        spec: how a model of it is named, as messages say it; the entry's name unless given.
        alone: whether the name alone is the spec: the source makes one model.
        no_control: why a model has no control with random weights; nothing if it has one.
        locate: `package.module:name`, free of torch, of a function from what stands behind the
            colon to the path of what is read on this machine, or None; nothing where none is.
    """

    spec: str = ""
    alone: bool = False
    no_control: str = ""
    locate: str = ""

    def path(self, rest: str) -> str | None:
        """The file or folder on this machine that what stands behind the colon names, if any."""
        if not self.locate:
            return None
        found: str | None = self.run(lambda: load(self.locate)(rest))
        return found


_SOURCES: dict[str, Source] = {
    "tiny": Source(
        "attnviz.models.tiny:load",
        "the embedded model: 6 layers of 8 heads, trained on drawn scenes; no download, no extra",
        "docs/tiny.md, its model card; Dosovitskiy et al. 2021, arXiv 2010.11929",
        alone=True,
    ),
    "random": Source(
        "attnviz.models.random:load",
        "one multi-head attention layer, randomly initialised from --seed, or yours by --weights",
        "Vaswani et al. 2017, arXiv 1706.03762",
        alone=True,
    ),
    "hf": Source(
        "attnviz.models.huggingface:load",
        "hf:ORG/NAME[@REV] or a checkpoint folder: vision models of transformers",
        "Wolf et al. 2020, arXiv 1910.03771",
        spec="hf:ORG/NAME",
    ),
    "timm": Source(
        "attnviz.models.timm_models:load",
        "timm:NAME or timm:hf_hub:ORG/NAME: PyTorch Image Models",
        "Wightman 2019, doi 10.5281/zenodo.4414861",
        spec="timm:NAME",
    ),
    "torchvision": Source(
        "attnviz.models.torchvision_models:load",
        "torchvision:NAME: the classification models of torchvision",
        "TorchVision maintainers 2016, github.com/pytorch/vision",
        spec="torchvision:NAME",
    ),
    "py": Source(
        "attnviz.models.own:load",
        "py:MODULE:FACTORY or py:FILE.py:FACTORY: your own nn.Module, or what makes one",
        "your own code, which is run",
        spec="py:MODULE:FACTORY",
        no_control="only its factory knows how they are drawn",
        locate="attnviz.models.locations:python_file",
    ),
}
SOURCES = Table("attnviz.sources", Source, _SOURCES)
"""By name; other packages add to it by entry points of the group `attnviz.sources`."""
DEFAULT = "tiny"


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
    if (entry := SOURCES.get(source)) is not None and entry.alone != bool(colon):
        return source
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — names above need no table

    if spec in ALIASES:
        return find_source(ALIASES[spec].spec)
    if os.path.isdir(spec):  # noqa: PTH112 — pathlib costs start-up
        return "hf"
    from attnviz.models.failures import nearest  # noqa: PLC0415 — for a slip of the pen only

    alone = [name for name, entry in SOURCES.items() if entry.alone]
    *others, last = [entry.spec or name for name, entry in SOURCES.items() if not entry.alone]
    raise UsageError(
        f"no model {spec!r}{nearest(spec)}; give {', '.join(alone)}, a name that `attnviz models` "
        f"lists, a checkpoint folder that is there, {', '.join(others)} or {last}"
    )


def find_path(spec: str) -> str | None:
    """The file or folder on this machine that a spec names, if any.

    >>> find_path("py:nets/vit.py:build"), find_path("hf:facebook/dinov2-small")
    ('nets/vit.py', None)
    """
    source, colon, rest = spec.partition(":")
    return SOURCES[source].path(rest) if colon and source in SOURCES else spec


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
    model: Model = SOURCES[find_source(spec)](request)
    return replace(model, spec=spec, size_given=size is not None)
