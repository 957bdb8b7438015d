"""Where models come from: `SOURCES` is the table, `load_model` loads from it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from attnviz.errors import UsageError
from attnviz.models.settings import SUFFIXES
from attnviz.models.targets import Head
from attnviz.registry import Table, TableEntry, load

if TYPE_CHECKING:
    from attnviz.models.model import Model
    from attnviz.models.model_request import ModelRequest


@dataclass(frozen=True)
class Source(TableEntry):
    """Where models come from: a function of a `ModelRequest` that returns a `Model`.

    Attributes:
        spec: how its models are named in messages; the entry's name unless given.
        alone: whether the name alone is the spec, because the source makes one model only.
        no_control: why its models have no control with random weights; empty if they have one.
        takes_settings: whether its models take `--set NAME=VALUE`, `--input` and `--output`.
        words: whether its models answer in words, without a question.
        locate: a function as `package.module:name` that imports no torch. It takes the text after
            the colon of a spec and returns the path that is read on this machine, or None. Empty
            if the source reads no path.
    """

    spec: str = ""
    alone: bool = False
    no_control: str = ""
    takes_settings: bool = False
    words: bool = False
    locate: str = ""

    def path(self, rest: str) -> str | None:
        """The file or folder on this machine that the text after the colon names, if any."""
        if not self.locate:
            return None
        found: str | None = self.run(lambda: load(self.locate)(rest))
        return found


_SOURCES: dict[str, Source] = {
    "tiny": Source(
        "attnviz.models.tiny:load",
        "the embedded model: 6 layers of 8 heads, trained on composites; no download, no extra",
        "docs/tiny.md, its model card; Dosovitskiy et al. 2021, arXiv 2010.11929",
        alone=True,
    ),
    "tiny-words": Source(
        "attnviz.models.tiny_words:load",
        "the embedded model with words: describes a drawn scene; no download, no extra",
        "docs/tiny-words.md, its model card; Vaswani et al. 2017, arXiv 1706.03762",
        alone=True,
        words=True,
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
    "file": Source(
        "attnviz.models.file_models:load",
        "FILE.pt .pth .bin .ckpt .safetensors .npz: a checkpoint of a plain vision transformer",
        "its architecture is read off the shapes of its tensors: docs/checkpoint.md",
        spec="FILE",
        takes_settings=True,
        locate="attnviz.models:plain_path",
    ),
    "py": Source(
        "attnviz.models.own:load",
        "py:MODULE:FACTORY or py:FILE.py:FACTORY: your own nn.Module, or what makes one",
        "your own code, which is run",
        spec="py:MODULE:FACTORY",
        no_control="only its factory knows how they are drawn",
        takes_settings=True,
        locate="attnviz.models:python_file",
    ),
}
SOURCES = Table("attnviz.sources", Source, _SOURCES)
"""Sources by name; other packages add theirs as entry points of the group `attnviz.sources`."""
DEFAULT = "tiny"
_OUTSIDE = (".onnx", ".tflite", ".mlmodel", ".mlpackage", ".engine", ".trt", ".h5", ".keras", ".pb")
"""Endings of files of models that other programs run."""


def find_source(spec: str) -> str:
    """The name of the source that a spec belongs to.

    >>> find_source("hf:facebook/dinov2-small")
    'hf'
    >>> find_source("eva02-tiny")
    'timm'

    Raises:
            UsageError: the spec belongs to no source.
    """
    source, colon, _ = spec.partition(":")
    if (entry := SOURCES.get(source)) is not None and entry.alone != bool(colon):
        return source
    from attnviz.models.aliases import ALIASES, nearest  # noqa: PLC0415 — names above need no table

    if spec in ALIASES:
        return find_source(ALIASES[spec].spec)
    if os.path.isdir(spec):  # noqa: PTH112 — pathlib costs start-up
        return "hf"
    if spec.lower().endswith(SUFFIXES):
        return "file"
    if spec.lower().endswith(_OUTSIDE):
        raise UsageError(
            f"{spec} runs outside of PyTorch, where attention cannot be watched; give the PyTorch "
            "module that it was made of: -m py:FILE.py:FACTORY --weights FILE"
        )
    hint = nearest(spec)
    if hint:
        raise UsageError(f"unknown model {spec!r}{hint} Else see `attnviz models`")
    alone = [name for name, entry in SOURCES.items() if entry.alone]
    *others, last = [entry.spec or name for name, entry in SOURCES.items() if not entry.alone]
    raise UsageError(
        f"unknown model {spec!r}; choose {', '.join(alone)}, a name that `attnviz models` lists, a "
        f"checkpoint folder that is there, {', '.join(others)} or {last}"
    )


def find_path(spec: str) -> str | None:
    """The file or folder on this machine that a spec names, if any.

    >>> find_path("py:nets/vit.py:build"), find_path("hf:facebook/dinov2-small")
    ('nets/vit.py', None)
    """
    source, colon, rest = spec.partition(":")
    return SOURCES[source].path(rest) if colon and source in SOURCES else spec


def plain_path(rest: str) -> str:
    """The path of `file:PATH`."""
    return rest


def python_file(rest: str) -> str | None:
    """The file of `MODULE:FACTORY` or `FILE.py:FACTORY`, relative to the current folder.

    >>> python_file("nets/vit.py:build"), python_file("nets.vit:build")
    ('nets/vit.py', 'nets/vit.py')
    """
    where = rest.rpartition(":")[0]
    return where if where.endswith(".py") else f"{where.replace('.', '/')}.py"


def load_model(
    spec: str = DEFAULT,
    *,
    heads: int | None = None,
    features: int | None = None,
    tokens: Literal["patches", "pixels"] = "patches",
    patch: int | None = None,
    size: int | None = None,
    weights: str | None = None,
    key: str | None = None,
    base: str | None = None,
    random_weights: bool = False,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
    head: Head = "none",
    settings: Mapping[str, Any] | None = None,
    input: str | None = None,  # noqa: A002 — the option's name
    output: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    resize: str | None = None,
) -> "Model":
    """Load a model by its spec, ready to be observed.

    Args:
        spec: `tiny`, `random`, an alias that `attnviz models` lists, `hf:ORG/NAME[@REV]`, a
            checkpoint folder or file, `timm:NAME`, `torchvision:NAME` or `py:MODULE:FACTORY`.
        heads: number of heads that `random` is built with, 8 unless given.
        features: width of `random`, a multiple of `heads`.
        tokens: what a token stands for: a patch, or (`random` only) a single pixel.
        patch: for `random` the patch side in input pixels, 16 unless given; for `py:` the number
            that the sides of the input are made multiples of, if the module does not state it.
        size: input size S: the input covers about S×S pixels. The default is 224 for patches, 64
            for pixels, and for a pretrained model its own size.
        weights: a file of weights for the model: `.pt`, `.pth`, `.bin`, `.ckpt`, `.safetensors` or
            `.npz`. Pickles in it are read and never executed.
        key: which of several models in a file of weights, such as `teacher` or `model_ema`.
        base: for an adapter of PEFT, the folder or hub name of the model that it was trained on,
            in place of the one that its config names.
        random_weights: build the same architecture, randomly initialised from `seed`.
        seed: random seed of the weights; `random` gets the same numbers on every machine.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `float32`, `bfloat16` or `float16`.
        head: which head of the checkpoint is loaded; the attention does not depend on it. `none`
            loads no head if the model can do without. With `class` the module returns logits,
            (batch, classes). `any` is `class` if the checkpoint has a class head, else `none`.
            With `text` the module returns the embedding of the picture, (batch, features), and
            the model can embed texts. With `words` the whole model is loaded, with its processor,
            and answers prompts.
            With `dense` it is the class that was saved, of a segmenter, a depth model or a
            detector, and the module returns its whole output. A module of `py:` has the head that
            its factory gives it.
        settings: for `py:`, arguments of the factory, or of the module's forward beside pixels; for
            a file what its shapes do not tell: `heads`, `act`, `eps`, `pool`.
        input: for `py:`, the argument of the module's forward that takes the pixels: `NAME`;
            `NAME[KEY]` or `[KEY]` for a dict, `NAME[]` or `[]` for a list of pictures.
        output: for `py:`, the part of the module's output that holds logits or features: keys,
            attributes or numbers with dots between them.
        mean: mean of pixel values 0 to 1: a number, `R,G,B`, `imagenet`, `half` or `none`, in place
            of what the model states.
        std: standard deviation of pixel values, as `mean`.
        resize: the filter that resizes pictures, in place of the model's own: `nearest`,
            `bilinear`, `bicubic`, `lanczos`, `box` or `hamming`.

    >>> load_model("random", heads=8).heads
    8

    Raises:
        UsageError: the spec is unknown, or options do not fit it or each other.
        ModelError: the model or the weights cannot be used, or there is no such head.
        MissingExtraError: a library is not installed.
        DeviceError: the device is not available.
    """
    if head not in get_args(Head):
        raise UsageError(f"unknown head={head!r}; choose from {', '.join(get_args(Head))}")
    if weights is not None and random_weights:
        raise UsageError("--weights and --random-weights exclude one another; give one of them")
    from attnviz.models.aliases import ALIASES  # noqa: PLC0415 — not for `--help`
    from attnviz.models.model_request import ModelRequest  # noqa: PLC0415

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
        settings=settings or {},
        key=key,
        base=base,
        input=input,
        output=output,
    )
    source = find_source(spec)
    _check_settings(source, spec, request)
    if head == "dense" and source not in ("hf", "py"):
        from attnviz.models.model_request import no_dense_head  # noqa: PLC0415

        raise no_dense_head(spec, "it is no segmenter of transformers, nor a module of yours")
    if head == "words" or SOURCES[source].words:
        _check_words(source, spec, {"--mean": mean, "--std": std, "--resize": resize})
    if key is not None and weights is None and source != "file":
        raise UsageError(f"--key {key} chooses from a file of weights; give one: --weights FILE")
    if base is not None and source != "hf":
        raise UsageError(f"--base {base} belongs to an adapter of PEFT; leave it out")
    model: Model = SOURCES[source](request)
    from attnviz.models.input_options import with_input_options  # noqa: PLC0415

    model = replace(model, spec=spec, size_given=size is not None)
    return with_input_options(model, mean=mean, std=std, resize=resize)


def _check_words(source: str, spec: str, given: Mapping[str, str | None]) -> None:
    """Refuse what cannot answer in words, and options of a picture that a processor prepares."""
    from attnviz.models.model_request import no_words  # noqa: PLC0415

    if source != "hf" and not SOURCES[source].words:
        raise no_words(spec, "models of transformers do, with their processor beside them")
    option = next((name for name, value in given.items() if value is not None), None)
    if option is not None:
        raise UsageError(f"{option}: the processor of a model with words prepares; leave it out")


def _check_settings(source: str, spec: str, request: "ModelRequest") -> None:
    """Refuse options that only `py:` takes where the source takes none of them."""
    given = {"input": request.input, "output": request.output}
    options = [f"--set {name}" for name in request.settings]
    options += [f"--{name} {value}" for name, value in given.items() if value is not None]
    if options and not SOURCES[source].takes_settings:
        where = " (the folder of files is --out)" if request.output is not None else ""
        raise UsageError(
            f"{options[0]}: {spec} takes no settings; give it with py: or with a checkpoint file, "
            f"or leave it out{where}"
        )
