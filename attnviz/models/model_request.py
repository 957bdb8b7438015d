"""What is asked of a source of models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attnviz.models.targets import Head

if TYPE_CHECKING:
    from attnviz.models.aliases import Alias


@dataclass(frozen=True)
class ModelRequest:
    """What was asked for, as `load_model` takes it; None where nothing was said."""

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
