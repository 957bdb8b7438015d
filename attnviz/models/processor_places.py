"""Measures which picture pixel each number shows that a processor makes of a picture.

The processor runs on ramps and waves along x and y. Nothing is known of it: it may crop, pad, tile,
add a thumbnail, or cut the picture into patches in any order.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from attnviz.geometry.grid import Box

Process = Callable[[Image.Image], Mapping[str, Any]]
"""A processor with all its other arguments: from a picture to tensors by name."""
_WAVES = 8
"""Periods of the waves over a side of the picture: their phase is read to 0.001 of a side."""
_HEIGHT = 1 / math.sqrt(6)
"""Height of the waves: all patterns have the mean and the standard deviation of a ramp, so that a
processor that normalises each picture by its own treats them alike."""
_SHOWN = 0.5
"""An element shows the picture if its waves have this share of the largest height: channels have
standard deviations of their own, and padding has no waves."""
_STRAIGHT = 0.02
"""The farthest that a tile's pixels may lie from even steps, as a share of the tile's side."""


@dataclass(frozen=True, eq=False)
class PictureTensor:
    """A tensor that a processor makes of a picture, and where its elements lie in the picture.

    Attributes:
        name: its name among the model's arguments.
        tiles: of a tensor of tiles (…, channels, h, w), the part of the picture that each tile
            shows, in picture pixels; it may reach beyond the picture (padding). None for a tile
            that shows nothing. Empty for a tensor of patches in some order.
        dim: the dimension that counts the tiles; None if there is one tile.
        size: height and width of a tile in its own pixels.
        places: of patches, the place x + iy of each element in picture pixels; NaN for nowhere.
    """

    name: str
    tiles: tuple[Box | None, ...] = ()
    dim: int | None = None
    size: tuple[int, int] = (0, 0)
    places: Tensor | None = None


def measure_processor(process: Process, width: int, height: int) -> dict[str, PictureTensor]:
    """The tensors that a processor makes of a picture of this size, by name.

    >>> def process(picture):                                 # two tiles side by side
    ...     pixels = torch.from_numpy(np.array(picture.resize((64, 32)))).permute(2, 0, 1) / 255
    ...     return {"pixel_values": torch.stack(pixels.split(32, -1))}
    >>> [[round(side) for side in box] for box in
    ...  measure_processor(process, 480, 320)["pixel_values"].tiles]
    [[0, 0, 240, 320], [240, 0, 480, 320]]

    Args:
        process: the processor.
        width: width of the picture in pixels.
        height: its height.
    """
    made = {name: process(picture) for name, picture in _patterns(width, height)}
    found = {}
    for name, first in made["inverted"].items():
        if not isinstance(first, Tensor) or not first.is_floating_point() or not first.numel():
            continue
        each = {pattern: tensors[name].float() for pattern, tensors in made.items()}
        if any(tensor.shape != first.shape for tensor in each.values()):
            continue
        grey = (each["x cos"] + each.pop("inverted")) / 2
        waves = {pattern: tensor - grey for pattern, tensor in each.items()}
        x, y = (_along(waves, axis, side) for axis, side in (("x", width), ("y", height)))
        if bool(x.isfinite().any()) and bool(y.isfinite().any()):
            places = torch.complex(x * width, y * height)
            found[name] = _tiled(name, places) or PictureTensor(name, places=places)
    return found


def _patterns(width: int, height: int) -> Iterator[tuple[str, Image.Image]]:
    """Grey pictures by name."""
    for axis, side in (("x", width), ("y", height)):
        at = (np.arange(side) + 0.5) / side
        values = {f"{axis} ramp": at}
        for kind, periods in (("", _periods(side)), ("long ", 1)):
            turn = 2 * np.pi * periods * at
            values[f"{axis} {kind}cos"] = 0.5 + _HEIGHT * np.cos(turn)
            values[f"{axis} {kind}sin"] = 0.5 + _HEIGHT * np.sin(turn)
        if axis == "x":
            values["inverted"] = 1 - values["x cos"]
        for name, each in values.items():
            across = each[None] if axis == "x" else each[:, None]
            yield name, _grey(np.broadcast_to(across, (height, width)))


def _periods(side: int) -> int:
    return max(1, min(_WAVES, side // 16))


def _grey(values: NDArray[np.float64]) -> Image.Image:
    levels = np.rint(255 * values).astype(np.uint8)
    return Image.fromarray(np.repeat(levels[..., None], 3, axis=-1))


def _along(waves: Mapping[str, Tensor], axis: str, side: int) -> Tensor:
    """Where elements lie along an axis, 0 to 1; NaN for elements that do not show the picture.

    The ramp tells the period of the waves, and their phase the place in it. A linear filter takes
    height from short waves and leaves their phase; long waves and ramps stay as they are, so the
    height of the long waves is the unit of the ramp.
    """
    ramp, cos, sin = (waves[f"{axis} {kind}"] for kind in ("ramp", "cos", "sin"))
    height = torch.hypot(waves[f"{axis} long cos"], waves[f"{axis} long sin"])
    periods = _periods(side)
    most = float(height.max())
    shows = (height > _SHOWN * most) & (most > 0)
    phase = torch.atan2(sin, cos) / (2 * math.pi)
    coarse = 0.5 + _HEIGHT * ramp / height
    place = ((coarse * periods - phase).round() + phase) / periods
    return torch.where(shows, place, torch.nan)


def _tiled(name: str, places: Tensor) -> PictureTensor | None:
    """The tiles of a tensor (…, channels, h, w) whose pixels lie in even steps; None if not so."""
    if places.ndim < 3 or places.shape[-3] not in (1, 3) or min(places.shape[-2:]) < 2:
        return None
    leading = places.shape[:-3]
    several = [dim for dim, size in enumerate(leading) if size > 1]
    if len(several) > 1:
        return None
    tiles = []
    for tile in places.reshape(-1, *places.shape[-3:]):
        try:
            tiles.append(_box(tile.mean(0)))
        except ValueError:
            return None
    if all(tile is None for tile in tiles):
        return None
    height, width = places.shape[-2:]
    return PictureTensor(name, tuple(tiles), several[0] if several else None, (height, width))


def _box(tile: Tensor) -> Box | None:
    """The part of the picture that a tile (h, w) of places shows; None if it shows nothing.

    Raises:
        ValueError: its pixels do not lie in even steps.
    """
    ends = []
    for part, dim in ((tile.real, 0), (tile.imag, 1)):
        seen = part.isfinite()
        if not bool(seen.any()):
            return None
        mean = torch.where(seen, part, 0).sum(dim) / seen.sum(dim)
        number = mean.isfinite().nonzero()[:, 0].double()
        at = mean[mean.isfinite()].double()
        if len(at) == 1:
            raise ValueError("one pixel has no step")
        apart = number - number.mean()
        step = float((apart * (at - at.mean())).sum() / (apart**2).sum())
        start = float(at.mean() - number.mean() * step) - step / 2
        side = step * len(mean)
        line = start + step * (torch.arange(len(mean)) + 0.5)
        off = (part - (line if dim == 0 else line[:, None])).abs()
        if step <= 0 or float(off[seen].max()) > _STRAIGHT * side + 1:
            raise ValueError("pixels lie in uneven steps")
        ends.append((start, start + side))
    (left, right), (top, bottom) = ends
    return Box(left, top, right, bottom)
