"""Parses `--channels`, `--slice`, `--region` and `--frames`: which part of a file is seen.

This file has no heavy imports, so that a usage error shows at once. `io.selecting` applies parts.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from attnviz.errors import ImageError, UsageError

_LAYOUT = re.compile(r"[DHWC]{2,4}")
_NAMED = re.compile(r"(?P<file>.+?\.np[yz]):(?P<name>.+)", re.IGNORECASE | re.DOTALL)

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """The part of a file that is the picture; None leaves the choice to the reader.

    Attributes:
        channels: the bands that are drawn, from 0: one in grey, or red, green and blue.
        slice: the slice of a volume or the page of a TIFF, from 0.
        region: x, y, width and height in pixels of the whole picture as seen.
    """

    channels: tuple[int, ...] | None = None
    slice: int | None = None
    region: Box | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is chosen."""
        return self == WHOLE


WHOLE = Part()


def parse_part(
    channels: str | None = None,
    slice: int | None = None,  # noqa: A002 — the option's name
    region: str | None = None,
) -> Part:
    """Parse the three options; None stands for an option that is not given.

    >>> parse_part("3,2,1", region="0,0,512,512")
    Part(channels=(3, 2, 1), slice=None, region=(0, 0, 512, 512))

    Raises:
        UsageError: a value is not valid.
    """
    if slice is not None and slice < 0:
        raise UsageError(f"--slice {slice}: slices count from 0; type --slice 0")
    return Part(
        None if channels is None else parse_channels(channels),
        slice,
        None if region is None else parse_region(region),
    )


def parse_channels(text: str) -> tuple[int, ...]:
    """Parse one or three numbers of bands.

    >>> parse_channels("3,2,1")
    (3, 2, 1)

    Raises:
        UsageError: anything else.
    """
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(_is_whole(part) for part in parts):
        raise UsageError(
            f"--channels {text!r}: give three bands for red, green and blue, counted from 0, such "
            "as --channels 3,2,1, or one for grey"
        )
    return tuple(int(part) for part in parts)


def parse_region(text: str) -> Box:
    """Parse `x,y,w,h`.

    >>> parse_region("100,50,512,256")
    (100, 50, 512, 256)

    Raises:
        UsageError: anything else, or an empty region.
    """
    parts = text.split(",")
    if len(parts) != 4 or not all(_is_whole(part) for part in parts):
        raise UsageError(
            f"--region {text!r}: give x,y,width,height in pixels, such as --region 0,0,512,512"
        )
    x, y, width, height = (int(part) for part in parts)
    if not width or not height:
        raise UsageError(
            f"--region {text}: it is empty; give a width and a height from 1 on, such as "
            f"--region {x},{y},512,512"
        )
    return x, y, width, height


def _is_whole(text: str) -> bool:
    return text.isascii() and text.strip().isdigit() and len(text) < 10


def check_region(box: Box, width: int, height: int, path: str) -> None:
    """Check that a region lies in a picture.

    Raises:
        ImageError: it does not.
    """
    x, y, wide, high = box
    if x + wide > width or y + high > height:
        fitting = min(x, width - 1), min(y, height - 1)
        sides = min(wide, width - fitting[0]), min(high, height - fitting[1])
        typed = ",".join(map(str, (*fitting, *sides)))
        raise ImageError(
            f"{path}: --region {x},{y},{wide},{high} leaves the picture of {width}x{height}; type "
            f"--region {typed}"
        )


def check_slice(number: int | None, count: int, path: str) -> int:
    """The number of the slice to draw; the middle one if none is chosen.

    Raises:
        ImageError: there is no such slice.
    """
    if number is None:
        return count // 2
    if number >= count:
        raise ImageError(
            f"{path}: --slice {number}: its {count} slices are 0 to {count - 1}; type --slice "
            f"{count - 1}"
        )
    return number


@dataclass(frozen=True)
class ArrayPath:
    """A path of an array file, with the name of an array and the order of its axes, if given."""

    file: str
    name: str | None = None
    axes: str | None = None


def split_path(path: str) -> ArrayPath:
    """Split `file.npz:name`, `file.npy:CHW` and `file.npz:name:CHW`; other paths stay whole.

    >>> split_path("scan.npz:image:HWC")
    ArrayPath(file='scan.npz', name='image', axes='HWC')
    """
    match = _NAMED.fullmatch(path)
    if match is None or Path(path).exists():
        return ArrayPath(path)
    name, axes = match["name"], None
    front, _, last = name.rpartition(":")
    if _LAYOUT.fullmatch(last) and len(set(last)) == len(last) and {"H", "W"} <= set(last):
        name, axes = front, last
    return ArrayPath(match["file"], name or None, axes)


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a clip a model of clips sees: `count` of them, from `start` to before `stop`.

    None stands for the first frame, the end of the clip, and the number that the model takes.
    """

    start: int | None = None
    stop: int | None = None
    count: int | None = None


def parse_frames(text: str) -> FrameSelection:
    """Read `A:B:N`, numbers of frames from 0; each part may be left out.

    >>> parse_frames("10:50:8"), parse_frames("::4").count
    (FrameSelection(start=10, stop=50, count=8), 4)

    Raises:
        UsageError: anything else.
    """
    parts = text.split(":")
    if len(parts) != 3 or not all(not part or part.isdecimal() for part in parts) or len(text) > 30:
        raise UsageError(
            f"--frames {text!r} cannot be read; give A:B:N, such as 0:50:16 or ::16: the first "
            "frame, the one behind the last, and how many"
        )
    start, stop, count = (int(part) if part else None for part in parts)
    if count == 0 or (stop is not None and stop <= (start or 0)):
        raise UsageError(f"--frames {text!r} has no frame; give A:B:N with A below B, and N over 0")
    return FrameSelection(start, stop, count)
