"""Checks what can be asked of a picture that is read tile by tile.

This file has no heavy imports, so that a usage error shows at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from attnviz.errors import UsageError
from attnviz.explanation.selection import Localized, parse_heads
from attnviz.geometry import queries
from attnviz.methods import METHODS
from attnviz.models.targets import Target

NO_OBJECTS = (
    "each tile has objects of its own; leave out --tile, or take --query pool, the mean over all "
    "object queries"
)
"""Why tiles are not looked at from objects."""
SMALLEST, LARGEST = 16, 65536
"""The smallest and the largest side of a tile in pixels."""
OVERLAP = 0.25
"""The share of a tile that neighbours share, by default."""
LARGEST_OVERLAP = 0.9


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles.

    Attributes:
        side: the side of a tile in picture pixels.
        overlap: the share of it that neighbours share.
    """

    side: int
    overlap: float = OVERLAP


def check_tiled(
    methods: Sequence[str],
    asked: Sequence[str],
    targets: Sequence[Target],
    *,
    heads: str = "all",
    statistics: str = "basic",
    mask: str | None = None,
) -> None:
    """Refuse what has no meaning for all tiles of a picture.

    Args:
        methods: names of methods.
        asked: queries.
        targets: scores, for methods that take gradients.
        heads: value of the option.
        statistics: `basic` or `all`.
        mask: path of a mask picture.

    Raises:
        UsageError: a query is a place of the picture, each tile would have a score of its own, or
            an option compares what lies in one run of the model.
    """
    parts = next((name for name in methods if METHODS[name].components), None)
    if parts is not None:
        raise UsageError(
            f"--tile: for {parts}, each tile would have components of its own; leave out --tile"
        )
    for text in asked:
        if queries.parse(text).kind in ("object", "objects"):
            raise UsageError(f"--query {text}: {NO_OBJECTS}")
        if queries.parse(text).kind in ("point", "box", "mask"):
            raise UsageError(
                f"--query {text}: a place lies in few tiles, and the others have no query; leave "
                "out --tile, and cut the picture around it with --region x,y,w,h"
            )
    for target in targets:
        if target.kind in ("object", "region"):
            raise UsageError(
                f"--target {target}: it lies in few tiles; leave out --tile, and cut the picture "
                "around it with --region x,y,w,h"
            )
    unnamed = not targets or any(target.kind == "auto" for target in targets)
    scored = next((name for name in methods if METHODS[name].scored), None)
    if scored is not None and unnamed:
        raise UsageError(
            f"--tile: for {scored}, each tile would take its own predicted class; name one score "
            "for all: --target CLASS, or --target norm"
        )
    if isinstance(parse_heads(heads), Localized):
        raise UsageError(
            f"--heads {heads}: --tile has no single map to choose heads by; leave it out"
        )
    if statistics == "all":
        raise UsageError("--stats all compares tokens of one input; leave out --tile, or --stats")
    if mask is not None:
        raise UsageError("--mask has no tiles; leave it out, or --tile")
