"""Reads clips with PyAV (extra: video); no other module opens them.

Every frame becomes what a person sees: 8-bit RGB, the right way up, square pixels, transparency
laid on white. Frames are decoded one after the other; none is kept.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.picture import Picture
from attnviz.io.values import NARROW

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from types import ModuleType

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

_HD = 720
"""With so many rows or more, players take unnamed colours as BT.709; with fewer, as BT.601."""
_UNNAMED, _BT709 = 2, 1
_CONTAINERS = (
    "mov,matroska,avi,gif,apng,webp,webp_anim,mpegts,mpeg,flv,ogg,asf,mxf,nut,rm,ivf,m4v,h264,hevc,"
    "mpegvideo,mjpeg,yuv4mpegpipe"
)
"""Containers of clips, by FFmpeg's names; playlists are excluded: they lead to other files."""
_RATE = Fraction(25)
"""Frames per second of a clip that states none."""
_VIDEO_BITS = 10
"""Clips of at most so many bits per sample are filmed; those of more hold measured values."""
_FINEST = 10_000_000
"""Time units per second."""


@dataclass(frozen=True)
class Clip:
    """A clip as a person sees it, described by its file and its first frame.

    Attributes:
        path: path as the user gave it.
        width, height: size of every frame, in pixels.
        rate: mean number of frames per second.
        time_base: length of one unit of a frame's `pts`, in seconds.
        steady: whether frames come at one constant rate, so that their times are exact.
        expected: approximate number of frames; 0 if the file does not state it.
        sounds: the codec of each sound track.
        notes: notes for the user about its frames.
    """

    path: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    steady: bool
    expected: int
    sounds: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file name."""
        return Path(self.path).name


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, shown from `pts` on for `duration`, both in units of the clip's time base."""

    number: int
    picture: Picture
    pts: int
    duration: int


def library(what: str) -> ModuleType:
    """Import PyAV.

    Raises:
        MissingExtraError: it is not installed; the line says that `what` needs it.
    """
    try:
        import av  # noqa: PLC0415 — the optional part attnviz[video]
    except ImportError as error:
        raise MissingExtraError(what, "video") from error
    return av


def open_clip(path: str | Path) -> Clip:
    """Describe a clip by its file and its first frame.

    >>> open_clip("clip.mp4").rate
    Fraction(25, 1)

    Raises:
        ImageError: the file is missing, not a clip, without a moving picture, or damaged.
        MissingExtraError: PyAV is not installed.
    """
    path = str(path)
    with opened(path) as container:
        stream = _moving(container, path)
        rate = stream.average_rate or stream.guessed_rate or _RATE
        exact = _exact_base(stream, rate)
        clip = Clip(
            path,
            width=0,
            height=0,
            rate=rate,
            time_base=exact or stream.time_base or 1 / _RATE,
            steady=exact is not None,
            expected=_expected(container, stream),
            sounds=tuple(one.codec_context.name for one in container.streams.audio),
        )
        first = next(_decoded(container, stream, path), None)
        if first is None:
            raise ImageError(f"{path}: no frame in it can be decoded; make the clip again")
        pixels = _as_seen(first, stream)
        height, width = pixels.shape[:2]
        return replace(clip, width=width, height=height, notes=_deep(first, pixels))


def frames(clip: Clip) -> Generator[Frame, None, None]:
    """Yield every frame, in the order in which they are shown.

    A frame without a time follows the frame before it. A frame of another size than the first is
    resized to the first. If a container rounds times (MKV to milliseconds) and frames come at a
    constant rate, the exact times are restored.

    Raises:
        ImageError: the clip is damaged from some frame on.
    """
    with opened(clip.path) as container:
        stream = _moving(container, clip.path)
        clock = _Clock(clip, stream.time_base or 1 / _RATE)
        held: Frame | None = None  # the next frame gives its duration
        for number, frame in enumerate(_decoded(container, stream, clip.path)):
            pts = clock.shown(frame.pts, held)
            if held is not None:
                yield replace(held, duration=pts - held.pts)
            pixels = _as_seen(frame, stream, (clip.width, clip.height))
            held = Frame(number, Picture(clip.path, pixels), pts, clock.lasts(frame.duration))
        if held is not None:
            yield held


def _deep(frame: VideoFrame, pixels: NDArray[np.uint8]) -> tuple[str, ...]:
    """Notes for a clip of measured values that 8 bits cannot show well."""
    bits = max(one.bits for one in frame.format.components)
    used = (int(pixels.max()) - int(pixels.min())) / 255
    if bits <= _VIDEO_BITS or used >= NARROW:
        return ()
    share = f"{100 * used:.0f} % of what its {bits} bits span"
    return (f"its first frame uses {share}; spread its values over 8 bits, and save it again",)


class _Clock:
    """Computes strictly increasing times of frames, in whole units of the clip's time base."""

    def __init__(self, clip: Clip, base: Fraction) -> None:
        self._steady, self._step = clip.steady, 1 / (clip.rate * clip.time_base)
        self._unit = base / clip.time_base  # unit of the file's times
        self._first: Fraction | None = None

    def shown(self, pts: int | None, before: Frame | None) -> int:
        """The time of a frame, also if it states none or one that is not after the frame before."""
        if pts is None:
            return 0 if before is None else before.pts + before.duration
        time = pts * self._unit
        if self._first is None:
            self._first = time
        near = self._first + round((time - self._first) / self._step) * self._step
        if self._steady and abs(near - time) < self._unit:
            time = near
        return int(time) if before is None else max(int(time), before.pts + 1)

    def lasts(self, duration: int | None) -> int:
        """The duration of the last frame."""
        length = self._step if self._steady or not duration else duration * self._unit
        return max(1, round(length))


@contextlib.contextmanager
def opened(path: str) -> Iterator[InputContainer]:
    """Open a clip's container, whatever it holds, and close it at the end.

    Raises:
        ImageError: the file is missing, or not a container.
        MissingExtraError: PyAV is not installed.
    """
    av = library(f"{path}: reading a clip")
    if not Path(path).exists():
        raise ImageError(f"{path}: no such file; check the path")
    if not Path(path).is_file():
        raise ImageError(f"{path}: no file; name a clip, such as clip.mp4")
    try:
        container = av.open(
            f"file:{path}",  # always a file, never a network address
            options={"protocol_whitelist": "file", "format_whitelist": _CONTAINERS},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = _reason(error)
        raise ImageError(
            f"{path}: cannot be read as a clip ({reason}); give an MP4, MOV, MKV, WebM, GIF …"
        ) from error
    with container:
        yield container


def _moving(container: InputContainer, path: str) -> VideoStream:
    """The video stream; the cover picture of a song does not count.

    Raises:
        ImageError: there is no video stream.
    """
    from av.stream import Disposition  # noqa: PLC0415 — PyAV, which is open

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    raise ImageError(f"{path}: no moving picture in it; give a clip with one")


def _decoded(container: InputContainer, stream: VideoStream, path: str) -> Iterator[VideoFrame]:
    av = library(path)
    number = 0
    try:
        for frame in container.decode(stream):
            yield frame
            number += 1
    except (av.error.FFmpegError, OSError) as error:
        raise ImageError(
            f"{path}: damaged after frame {number} ({_reason(error)}); cut the clip before it, or "
            "make it again"
        ) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).lower()


def _exact_base(stream: VideoStream, rate: Fraction) -> Fraction | None:
    """A time base in which the file's times and the times of frames at one rate are whole.

    None if frames come unevenly, or if such units would be finer than containers can store.
    """
    parts = math.lcm((stream.time_base or 1 / _RATE).denominator, rate.numerator)
    even = stream.average_rate is not None and stream.average_rate == stream.base_rate
    return Fraction(1, parts) if even and parts <= _FINEST else None


def _expected(container: InputContainer, stream: VideoStream) -> int:
    """Approximate number of frames; 0 if it is not known."""
    if stream.frames:
        return stream.frames
    rate, length = stream.average_rate, container.duration
    return round(rate * Fraction(length, 1_000_000)) if rate and length else 0


def _as_seen(
    frame: VideoFrame, stream: VideoStream, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """A frame as a person sees it, (height, width, 3), resized if a (width, height) is given."""
    from av.video.reformatter import Interpolation  # noqa: PLC0415 — PyAV, which is open

    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as np.rot90 turns
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio
    if aspect and aspect > 0:
        width = max(1, math.floor(width * aspect + Fraction(1, 2)))
    if size is not None:
        width, height = size[::-1] if turns % 2 else size
    see_through = any(one.is_alpha for one in frame.format.components)
    name = "rgba" if see_through else "rgb24"
    # The colour matrix to assume if the file names none.
    matrix = _BT709 if frame.colorspace == _UNNAMED and frame.height >= _HD else None
    # Exact rounding, and full interpolation of subsampled colours.
    how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    pixels: Any = frame.reformat(
        width, height, name, src_colorspace=matrix, interpolation=int(how)
    ).to_ndarray()
    if see_through:
        alpha = pixels[..., 3:] / np.float32(255)
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, turns))
