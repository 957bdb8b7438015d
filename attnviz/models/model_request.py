"""The request to load a model, and the errors for what a model lacks or does not take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from attnviz.errors import ModelError, UsageError
from attnviz.models.targets import Head

if TYPE_CHECKING:
    from attnviz.models.aliases import Alias

CLASSIFIER = "hf:google/vit-base-patch16-224"
WITH_TEXT = ("clip-base-16", "siglip-base")
"""Models with a text tower that errors suggest."""


@dataclass(frozen=True)
class ModelRequest:
    """The arguments of `load_model`; None for an argument that was not given."""

    spec: str
    heads: int | None = None
    features: int | None = None
    tokens: Literal["patches", "pixels"] = "patches"
    patch: int | None = None
    size: int | None = None
    weights: str | None = None
    random_weights: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    head: Head = "none"
    alias: "Alias | None" = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    input: str | None = None
    output: str | None = None
    base: str | None = None


def refuse_options(request: ModelRequest, *, patch: bool = False) -> None:
    """Refuse options that only the model `random` takes; `patch` allows --patch.

    Raises:
        UsageError: one of them was given.
    """
    if request.patch is not None and not patch:
        raise UsageError(
            f"--patch {request.patch} is for the model random, and py:; add --model random"
        )
    if request.features is not None:
        raise UsageError(
            f"--features {request.features} is for the model random; add --model random"
        )
    if request.tokens != "patches":
        raise UsageError("--tokens pixels is for the model random; add --model random")


def no_class_head(spec: str, why: str) -> ModelError:
    """The error for a model without class head where a class is needed."""
    return ModelError(
        f"{spec} has no class head ({why}); give a classifier such as {CLASSIFIER}, or use "
        "no classes: --target norm, or in evaluate --masks FOLDER"
    )


def no_dense_head(spec: str, why: str) -> ModelError:
    """The error for a model without scores of places or objects where one is the target."""
    return ModelError(
        f"{spec} has no score of each place of a picture, nor of objects ({why}); give a "
        "segmenter, a depth model or a detector that was saved with its head, or --target norm"
    )


def no_text_tower(spec: str, why: str) -> ModelError:
    """The error for a model without text tower where texts are given."""
    return ModelError(
        f"{spec} has no text tower ({why}); give a model that has, such as {' or '.join(WITH_TEXT)}"
    )


def no_words(spec: str, why: str) -> ModelError:
    """The error for a model that does not answer in words where a prompt is given."""
    return ModelError(
        f"{spec} does not answer in words ({why}); leave --prompt out, or give a vision-language "
        "model, such as hf:HuggingFaceTB/SmolVLM-256M-Instruct"
    )


def fixed_size(
    request: ModelRequest, size: int, *, fixed: bool, shape: tuple[int, int] | None = None
) -> int:
    """The input size: the requested one, else the model's own.

    `shape` is the model's own (height, width) if it is not square.

    Raises:
        UsageError: the model takes its own size only, and another was requested.
    """
    height, width = shape or (size, size)
    if fixed and request.size is not None and (request.size, request.size) != (height, width):
        raise UsageError(takes_only(request.spec, request.size, (height, width)))
    return request.size or size


def takes_only(spec: str, size: int, shape: tuple[int, int]) -> str:
    """The error text for a size that a model does not take; `shape` is its own (height, width)."""
    return f"--size {size}: {spec} takes {shape[1]}x{shape[0]} pixels only; leave it out"
