"""The request that a model source gets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attnviz.models.targets import Head

if TYPE_CHECKING:
    from attnviz.models.aliases import Alias


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
