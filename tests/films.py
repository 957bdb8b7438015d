"""Clips that tests are made of, and what is in a file that came out; all with PyAV, none kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
RATE = 48_000


def stripes(number: int, width: int = 64, height: int = 48) -> Pixels:
    """A picture that moves: smooth, so that codecs change it little."""
    y, x = np.mgrid[0:height, 0:width]
    phase = 2 * np.pi * (x / width + y / (2 * height) + number / 50)
    waves = [np.sin(phase + shift) for shift in (0, 2, 4)]
    picture: Pixels = np.rint(127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
    return picture


def make_clip(
    path: Path,
    count: int = 10,
    *,
    draw: Callable[[int], Pixels] = stripes,
    rate: Fraction | int = 25,
    times: Sequence[int] | None = None,
    sound: str | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a clip; `times` are those of its frames in units of 1/rate, where they are uneven.

    `settings` are `format`, and `rotation` and `aspect` of the stream.
    """
    with av.open(str(path), "w", format=settings.get("format")) as container:
        fine = {"crf": "8"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=rate, options=fine | (options or {}))
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = pixels
        if "rotation" in settings:
            stream.set_display_rotation(settings["rotation"])
        if "aspect" in settings:
            stream.codec_context.sample_aspect_ratio = settings["aspect"]
        audio: Any = container.add_stream(sound, rate=RATE, layout="stereo") if sound else None
        for number in range(count):
            kind = "rgba" if draw(0).shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(draw(number), format=kind)
            frame.pts = number if times is None else times[number]
            frame.time_base = 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            _hum(container, audio, count / float(rate))
    return path


def make_song(path: Path, *, cover: bool = False) -> Path:
    """A file with sound alone; or with the picture of a cover, which does not move."""
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream("aac", rate=RATE, layout="stereo")
        if cover:
            picture: Any = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(stripes(0), format="rgb24")
            container.mux([*picture.encode(frame), *picture.encode()])
        _hum(container, audio, 0.2)
    return path


def _hum(container: Any, stream: Any, seconds: float) -> None:
    """A low note in a stream of sound."""
    for start in range(0, round(seconds * RATE), 1024):
        wave = 0.3 * np.sin(2 * np.pi * 220 * (np.arange(1024) + start) / RATE)
        both = np.stack([wave, wave])
        if stream.codec_context.format.name == "s16":
            packed = np.rint(32767 * both.T.reshape(1, -1)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        else:
            planes = both.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


@dataclass(frozen=True)
class Film:
    """What a file holds, frame by frame."""

    pictures: list[Pixels]
    times: list[Fraction]
    rate: Fraction | None


def read_film(path: Path) -> Film:
    """Every frame of a file, and when it is shown, in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pictures: list[Any] = [frame.to_ndarray(format="rgb24") for frame in frames]
        assert stream.time_base is not None
        times = [(frame.pts or 0) * stream.time_base for frame in frames]
        return Film(pictures, times, stream.average_rate)


def sound_packets(path: Path) -> list[tuple[Any, ...]]:
    """When each packet of sound is heard, for how long, and its bytes."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [
            (packet.pts, packet.dts, packet.duration, bytes(packet))
            for packet in container.demux(stream)
            if packet.dts is not None
        ]


def apart(a: Any, b: Any) -> float:
    """Mean difference of two pictures, in levels of 0 to 255."""
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean())
