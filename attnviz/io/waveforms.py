"""Reads the sound of a file as samples of one channel, with PyAV (extra: sound)."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import ImageError, MissingExtraError
from attnviz.io.picture_files import SOUNDS, STDIN, Note

_CONTAINERS = (
    "wav,w64,rf64,aiff,au,caf,flac,mp3,ogg,aac,ac3,amr,asf,ape,wv,tta,mov,matroska,avi,mpegts,mpeg"
)
"""Containers of sounds, by FFmpeg's names; playlists are excluded: they lead to other files."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """A sound of one channel.

    Attributes:
        samples: (samples,) float32, -1 to 1.
        rate: samples per second.
        notes: notes on how it was read.
    """

    samples: NDArray[np.float32]
    rate: int
    notes: tuple[Note, ...] = ()

    @property
    def duration(self) -> float:
        """Its length in seconds."""
        return len(self.samples) / self.rate


def is_sound(path: str) -> bool:
    """Whether a path has the ending of a sound's file.

    >>> is_sound("speech.WAV"), is_sound("cat.jpg")
    (True, False)
    """
    return path.lower().endswith(SOUNDS)


def read_waveform(data: bytes, path: str, rate: int) -> Waveform:
    """Decode the bytes of a file, or of a clip with sound, at `rate` samples per second.

    The channels of the first track are averaged, and resampled by FFmpeg (libswresample).

    Args:
        data: the file.
        path: its name, for messages.
        rate: samples per second of the result.

    Raises:
        ImageError: there is no sound in it, or it is damaged.
        MissingExtraError: PyAV is not installed.
    """
    name = "standard input" if path == STDIN else path
    try:
        import av  # noqa: PLC0415 — the optional part attnviz[sound]
    except ImportError as error:
        raise MissingExtraError(f"{name}: reading a sound", "sound") from error
    try:
        with av.open(
            io.BytesIO(data),
            "r",
            options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container:
            if not container.streams.audio:
                raise ImageError(f"{name}: no sound in it; give a WAV, FLAC, MP3, OGG …")
            track = container.streams.audio[0]
            own, count = int(track.codec_context.sample_rate), track.codec_context.channels
            planar = av.AudioResampler(format="fltp")  # values alone; rate and channels stay
            parts = [
                each.to_ndarray().mean(0, dtype=np.float64)
                for frame in container.decode(track)
                for each in planar.resample(frame)
            ]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise ImageError(
            f"{name}: cannot be read as a sound ({reason}); give a WAV, FLAC, MP3, OGG …"
        ) from error
    if not parts or not sum(map(len, parts)):
        raise ImageError(f"{name}: its sound has no samples; give another file")
    samples = np.concatenate(parts).astype(np.float32)
    changes = [f"its {count} channels are averaged"] if count > 1 else []
    if own != rate:
        samples = _resampled(samples, own, rate)
        changes.append(f"resampled from {own} to {rate} Hz, the model's rate")
    notes = (Note("sound", "; ".join(changes)),) if changes else ()
    return Waveform(samples, rate, notes)


def _resampled(samples: NDArray[np.float32], before: int, rate: int) -> NDArray[np.float32]:
    """Samples of one channel at another rate; their number is rounded up."""
    import av  # noqa: PLC0415 — it is installed

    frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = before
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    found = [each.to_ndarray()[0] for part in (frame, None) for each in resampler.resample(part)]
    length = -(-len(samples) * rate // before)
    return np.concatenate(found)[:length]
