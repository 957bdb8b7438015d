"""Explains a picture file tile by tile, for Python; `explain_tiles` does the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnviz.attention.sweep import Progress
from attnviz.errors import UsageError
from attnviz.explanation.explain_tiles import explain_tiles
from attnviz.explanation.explanation import Explanation
from attnviz.explanation.request import Questions
from attnviz.explanation.tile_request import LARGEST, LARGEST_OVERLAP, OVERLAP, SMALLEST
from attnviz.geometry.placement import Fit
from attnviz.io.parts import parse_part
from attnviz.io.picture_tiles import open_tiled
from attnviz.io.ranges import FULL
from attnviz.methods import DEFAULT
from attnviz.models import targets
from attnviz.models.model import Model


def explain_tiled(
    path: str | Path,
    model: Model,
    *,
    tile: int = 224,
    overlap: float = OVERLAP,
    fit: Fit = "keep",
    range: str = FULL,  # noqa: A002 — the option's name
    channels: str | None = None,
    slice: int | None = None,  # noqa: A002
    region: str | None = None,
    method: str = DEFAULT,
    query: str | Sequence[str] = "auto",
    target: str | Sequence[str] = (),
    against: str | Sequence[str] = (),
    layers: str = "auto",
    heads: str = "all",
    start_layer: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation:
    """Run a model on every tile of a picture file, and join the maps on the picture.

    Memory holds few tiles at a time, and the maps. The explanation's picture has no pixels; draw
    its maps on another size of it with `render(explanation, on=picture)`.

    >>> slide = attnviz.explain_tiled("cat.jpg", model, tile=160, overlap=0.25)
    >>> slide.tiles.count, slide.maps.shape
    (12, (1, 8, 36, 54))

    Args:
        path: path of the file.
        model: the model.
        tile: the side of a tile in picture pixels.
        overlap: the share of it that neighbours share, 0 to 0.9.
        fit: how a tile is laid into the input, as of `observe`.
        range: the values that become black and white, as of `load_image`.
        channels: the bands to draw.
        slice: the slice of a volume, or the page of a TIFF.
        region: `x,y,w,h`, the part of the picture.
        method: a name that `attnviz methods` lists.
        query: `auto`, `cls`, `registerN`, `mean` or `pool`, or several of them.
        target: the score, for methods that take gradients: a class, or `norm`; or several.
        against: the classes whose mean score is subtracted from each target's, as of `explain`.
        layers: the layers that have maps, as of `explain`.
        heads: the heads that have maps, as of `explain`.
        start_layer: the first layer of methods that merge layers.
        options: options of the method; None gives the default.
        progress: a function that is called with (tiles done, tiles in all).

    Raises:
        UsageError: an option is not valid, or a question has no meaning for all tiles.
        ImageError, ModelError, RecordingError, MemoryLimitError: as of `load_image` and `observe`.
    """
    if not SMALLEST <= tile <= LARGEST or not 0 <= overlap <= LARGEST_OVERLAP:
        raise UsageError(
            f"a tile of {tile} pixels with an overlap of {overlap}; give {SMALLEST} to {LARGEST} "
            f"pixels, and an overlap of 0 to {LARGEST_OVERLAP}"
        )
    questions = Questions(
        (method,),
        (query,) if isinstance(query, str) else tuple(query),
        targets.contrasts(
            [targets.parse(each) for each in ([target] if isinstance(target, str) else target)],
            [against] if isinstance(against, str) else against,
        ),
        layers,
        heads,
        start_layer,
        options,
    )
    with open_tiled(path, range, parse_part(channels, slice, region), tile, overlap) as picture:
        return explain_tiles(picture, model, questions, fit=fit, progress=progress)[0]
