"""Writes frames as moving pictures: GIF, WebP and APNG with Pillow, films with PyAV.

`write` takes all frames of a short animation at once; `Film` takes them one by one.
"""

from __future__ import annotations

import contextlib
import io
import math
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from attnviz.errors import OutputError
from attnviz.io import clips
from attnviz.output import whole_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from attnviz.io.sound import Sound

Kind = Literal["gif", "webp", "apng", "mp4"]
SUFFIXES: dict[Kind, str] = {"gif": "gif", "webp": "webp", "apng": "png", "mp4": "mp4"}
_SETTINGS: dict[str, dict[str, Any]] = {
    "gif": {"optimize": False},
    "webp": {"quality": 90, "method": 4},
    # Each frame is complete: viewers differ in how they blend a frame with the previous one.
    "apng": {"blend": 0, "compress_level": 6},
}
FILMS = {
    ".mp4": ("mp4", "libx264", {"crf": "18", "preset": "fast"}),
    ".mov": ("mov", "libx264", {"crf": "18", "preset": "fast"}),
    ".mkv": ("matroska", "libx264", {"crf": "18", "preset": "fast"}),
    ".webm": (
        "webm",
        "libvpx-vp9",
        {"crf": "24", "b": "0", "row-mt": "1", "cpu-used": "4", "deadline": "good"},
    ),
}
"""Container, codec and codec options, by the ending of the file's name."""
_BT709, _LIMITED = 1, 1
_KEPT = 64
"""How many colours of a GIF belong to the colour map; the others belong to the photograph."""
_SAMPLES = 100_000
"""How many pixels of all frames the photograph's colours are chosen from."""


def check(kind: Kind) -> None:
    """Check that a kind of moving picture can be written here.

    Raises:
        MissingExtraError: the library that writes it is not installed.
    """
    if kind == "mp4":
        clips.library("writing an MP4")


def write(
    path: Path,
    frames: Sequence[Image.Image],
    kind: Kind,
    rate: float,
    *,
    colours: NDArray[np.uint8],
) -> Path:
    """Write frames of one size as a moving picture with `rate` frames per second.

    `colours`, (n, 3), is the table of the colour map. A GIF has few colours and keeps these.

    Raises:
        OutputError: the kind cannot hold the frames, or the file cannot be written.
        MissingExtraError: the kind is MP4, and PyAV is not installed.
    """
    if kind != "mp4":
        few = _indexed(frames, colours) if kind == "gif" else frames
        return whole_files.write_whole(path, _encode(few, kind, rate))
    exact = Fraction(rate).limit_denominator(1001)
    with Film.writing(path, frames[0].size, rate=exact, time_base=1 / exact) as film:
        for number, frame in enumerate(frames):
            film.add(frame, pts=number, duration=1)
    return path


def _encode(frames: Sequence[Image.Image], kind: Kind, rate: float) -> bytes:
    """Frames as the bytes of a file that plays in a loop."""
    first, *rest = frames
    buffer = io.BytesIO()
    shared: dict[str, Any] = {
        "save_all": True,
        "append_images": rest,
        "duration": round(1000 / rate),
        "loop": 0,
    }
    name = {"gif": "GIF", "webp": "WEBP", "apng": "PNG"}[kind]
    try:
        first.save(buffer, name, **shared, **_SETTINGS[kind])
    except (OSError, ValueError, RuntimeError) as error:  # raised for GIF, APNG and WebP
        size = f"{first.width}x{first.height}"
        raise OutputError(f"{kind} cannot hold {size} pixels; take --movie apng") from error
    return buffer.getvalue()


def _indexed(frames: Sequence[Image.Image], colours: NDArray[np.uint8]) -> list[Image.Image]:
    """Frames with one palette of 256 colours, so that still parts do not flicker.

    The palette contains entries of `colours`.
    """
    kept = colours[np.linspace(0, len(colours) - 1, _KEPT).round().astype(np.intp)]
    pixels = sum(frame.width * frame.height for frame in frames)
    step = max(1, math.isqrt(pixels // _SAMPLES))
    samples = np.concatenate([np.asarray(one)[::step, ::step].reshape(-1, 3) for one in frames])
    sample = Image.fromarray(samples[None])
    found = sample.quantize(256 - _KEPT, Image.Quantize.MEDIANCUT, kmeans=2)
    others = found.getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*kept.ravel().tolist(), *others])
    dither = Image.Dither.FLOYDSTEINBERG
    return [frame.quantize(palette=palette, dither=dither) for frame in frames]


class Film:
    """A film that grows frame by frame, with the sound up to each frame."""

    def __init__(
        self,
        path: Path,
        suffix: str,
        size: tuple[int, int],
        *,
        rate: Fraction,
        time_base: Fraction,
        sound: Sound | None,
    ) -> None:
        av = clips.library("writing a film")
        container, codec, options = FILMS[suffix]
        flags = {} if suffix in (".mkv", ".webm") else {"movflags": "+faststart"}
        self._av, self._time_base, self._sound = av, time_base, sound
        self._container = av.open(str(path), "w", format=container, container_options=flags)
        self._stream = self._container.add_stream(codec, rate=rate, options=options)
        self.size = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = time_base
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(self._stream.codec_context, name, _BT709)
        self._stream.codec_context.color_range = _LIMITED
        if sound is not None:
            sound.join(self._container)

    @classmethod
    @contextlib.contextmanager
    def writing(
        cls,
        path: Path,
        size: tuple[int, int],
        *,
        rate: Fraction,
        time_base: Fraction,
        sound: Sound | None = None,
        temporary: Path | None = None,
    ) -> Iterator[Film]:
        """A film that gets its name only when it is complete.

        Codecs store colours for pairs of pixels. So an odd width or height grows by one column or
        row, a copy of the last one.

        Args:
            path: where the film goes; its ending is one of `FILMS`.
            size: (width, height) of the frames.
            rate: mean number of frames per second.
            time_base: seconds per unit of `pts`.
            sound: the sound of the film.
            temporary: where to write instead; the caller then renames the file.

        Raises:
            OutputError: the film cannot be written; nothing is left behind.
            MissingExtraError: PyAV is not installed.
        """
        av = clips.library("writing a film")
        whole = (
            whole_files.writing(path) if temporary is None else contextlib.nullcontext(temporary)
        )
        with whole as place:
            try:
                film = cls(
                    place, path.suffix.lower(), size, rate=rate, time_base=time_base, sound=sound
                )
                try:
                    yield film
                    film._finish()
                except BaseException:
                    with contextlib.suppress(av.error.FFmpegError):  # report the first error only
                        film._container.close()
                    raise
                film._container.close()
            except av.error.FFmpegError as error:
                reason = str(getattr(error, "strerror", None) or error).lower()
                raise OutputError(f"{path}: cannot be written ({reason})") from error

    def add(self, image: Image.Image, *, pts: int, duration: int) -> None:
        """Add a frame, and the sound up to its time."""
        pixels = np.asarray(image)
        odd = [(0, pixels.shape[axis] % 2) for axis in (0, 1)]
        if odd != [(0, 0), (0, 0)]:
            pixels = np.pad(pixels, [*odd, (0, 0)], mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
        self._container.mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.until(pts * self._time_base)

    def _finish(self) -> None:
        self._container.mux(self._stream.encode())
        if self._sound is not None:
            self._sound.rest()
