"""Reads the cut-outs and grounds that `training/cutouts.py` collected."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnviz.models.tiny import LABELS

Bytes = NDArray[np.uint8]

HELD_OUT = 12
"""One in so many cut-outs and grounds is held out, by its path."""
PHOTOGRAPHIC_SHARE = 0.85
"""The share of objects that are photographs; the others are drawings."""


@dataclass(frozen=True)
class Material:
    """Cut-outs (h, w, 4), their kinds (−1: none) and chances; grounds; photographs of things."""

    cutouts: list[Bytes]
    kinds: NDArray[np.int64]
    chances: NDArray[np.float64]
    grounds: list[Bytes]
    photographs: list[Bytes]


def read(file: Path, *, held_out: bool = False) -> Material:
    """The part of a collection that training sees, or the part that is held out."""
    with np.load(file) as kept:
        cutouts, names, sources = _unpacked(kept, "cutout")
        grounds, _, ground_sources = _unpacked(kept, "ground")
        photographic = kept["photographic"]
    mine = [i for i, source in enumerate(sources) if _held_out(source) == held_out]
    kinds = np.array([LABELS.index(names[i]) if names[i] in LABELS else -1 for i in mine])
    chances = np.zeros(len(mine))
    for group, share in ((True, PHOTOGRAPHIC_SHARE), (False, 1 - PHOTOGRAPHIC_SHARE)):
        for kind in range(-1, len(LABELS)):
            rows = (photographic[mine] == group) & (kinds == kind)
            chances[rows] = 1 / math.sqrt(max(1, rows.sum()))  # rare kinds come more often
        rows = photographic[mine] == group
        chances[rows] *= share / max(chances[rows].sum(), 1e-9)
    used = [i for i, source in enumerate(ground_sources) if _held_out(source) == held_out]
    things = {i for i in used if "gcompris" in ground_sources[i]}
    return Material(
        [cutouts[i] for i in mine],
        kinds,
        chances / chances.sum(),
        [grounds[i] for i in used if i not in things],
        [grounds[i] for i in sorted(things)],
    )


def _unpacked(kept: "np.lib.npyio.NpzFile", name: str) -> tuple[list[Bytes], list[str], list[str]]:
    pixels, pictures, start = kept[f"{name}_pixels"], [], 0
    for shape in kept[f"{name}_shapes"]:
        stop = start + int(np.prod(shape))
        pictures.append(pixels[start:stop].reshape(shape))
        start = stop
    return pictures, list(kept[f"{name}_kinds"]), list(kept[f"{name}_sources"])


def _held_out(source: str) -> bool:
    return zlib.crc32(source.encode()) % HELD_OUT == 0
