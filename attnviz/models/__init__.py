"""Models: where they come from. `SOURCES` is the table, `load_model` the door."""

from typing import TYPE_CHECKING, Literal

from attnviz.catalog import Entry
from attnviz.errors import UsageError

if TYPE_CHECKING:
    from attnviz.models.model import Model

SOURCES: dict[str, Entry] = {
    "random": Entry(
        "attnviz.models.random:load",
        "one multi-head attention layer, randomly initialised from --seed, or yours by --weights",
        "Vaswani et al. 2017, arXiv 1706.03762",
    ),
}
DEFAULT = "random"


def check_spec(spec: str) -> str:
    """The spec itself, if it names a model of the table.

    Raises:
        UsageError: it does not.
    """
    if spec not in SOURCES:
        raise UsageError(
            f"no model {spec!r}; this version knows {', '.join(SOURCES)} (see `attnviz models`)"
        )
    return spec


def load_model(
    spec: str = DEFAULT,
    *,
    heads: int | None = None,
    features: int | None = None,
    tokens: Literal["patches", "pixels"] = "patches",
    patch: int | None = None,
    size: int | None = None,
    weights: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float32",
) -> "Model":
    """Load a model by its spec, ready to be observed.

    Args:
        spec: a name that `attnviz models` lists.
        heads: number of heads that `random` is built with, 8 unless given.
        features: width of `random`, a multiple of `heads`.
        tokens: what a token is: a patch, or a single pixel.
        patch: patch side in input pixels, 16 unless given.
        size: input size S: the input covers about S×S pixels; 224 for patches, 64 for pixels.
        weights: a `.safetensors` or `.pt` state dict of the layer.
        seed: of the random initialisation; the same numbers on every machine.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        dtype: `float32`, `bfloat16` or `float16`.

    >>> load_model("random", heads=8).heads
    8

    Raises:
        UsageError: unknown spec, or sizes that do not fit together.
        ModelError: weights that cannot be used.
        DeviceError: the device is not there.
    """
    return SOURCES[check_spec(spec)].load()(  # type: ignore[no-any-return]
        heads=heads,
        features=features,
        tokens=tokens,
        patch=patch,
        size=size,
        weights=weights,
        seed=seed,
        device=device,
        dtype=dtype,
    )
