"""Copies the sound of a clip into a film, and encodes it again only if it must."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from attnviz.errors import ImageError
from attnviz.io import clips

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet

_RATE = 48_000
"""Samples per second of newly encoded sound: every codec accepts this rate."""


class Sound:
    """All sound tracks of a clip, read in step with its frames."""

    def __init__(self, container: InputContainer, path: str) -> None:
        self._path = path
        self._streams = list(container.streams.audio)
        self._packets: Iterator[Packet[Any]] = container.demux(*self._streams)
        self._next: Packet[AudioStream] | None = None
        self._tracks: dict[int, _Copied | _Encoded] = {}

    @classmethod
    @contextlib.contextmanager
    def of(cls, clip: clips.Clip) -> Iterator[Sound | None]:
        """Open the sound of a clip; None if it has none."""
        if not clip.sounds:
            yield None
            return
        with clips.opened(clip.path) as container:
            yield cls(container, clip.path)

    def join(self, container: OutputContainer) -> None:
        """Add the tracks to a film, before its first packet."""
        for stream in self._streams:
            held = _held(stream, container)
            self._tracks[stream.index] = (
                _Copied(stream, container) if held else _Encoded(stream, container, self._path)
            )

    @property
    def encoded(self) -> dict[str, str]:
        """Codecs that were replaced: old codec → new codec."""
        return {
            track.before: track.after
            for track in self._tracks.values()
            if isinstance(track, _Encoded)
        }

    def until(self, seconds: Fraction) -> None:
        """Pass on all sound before a time.

        Raises:
            ImageError: the sound is damaged.
        """
        while (packet := self._waiting()) is not None:
            if packet.dts is not None and packet.dts * packet.time_base > seconds:
                return
            self._next = None
            self._tracks[packet.stream.index].add(packet)

    def rest(self) -> None:
        """Pass on all remaining sound.

        Raises:
            ImageError: the sound is damaged.
        """
        while (packet := self._waiting()) is not None:
            self._next = None
            self._tracks[packet.stream.index].add(packet)
        for track in self._tracks.values():
            track.end()

    def _waiting(self) -> Packet[AudioStream] | None:
        """The next packet; it stays the next one until it is passed on."""
        if self._next is None:
            with _readable(self._path):
                self._next = next(self._packets, None)
        return self._next


def _held(stream: AudioStream, container: OutputContainer) -> bool:
    """Whether a container can hold a track unchanged: its codec and its channel layout."""
    named = all(channel.name != "NONE" for channel in stream.codec_context.layout.channels)
    return named and stream.codec_context.name in container.supported_codecs


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn exceptions of reading into errors about the clip, not about the film.

    Raises:
        ImageError: the sound is damaged.
    """
    av = clips.library("reading sound")
    try:
        yield
    except av.error.FFmpegError as error:
        reason = str(error.strerror or error).lower()
        raise ImageError(
            f"{path}: its sound is damaged ({reason}); take it out, or make the clip again"
        ) from error


class _Copied:
    """A track whose packets are copied unchanged."""

    def __init__(self, stream: AudioStream, container: OutputContainer) -> None:
        self._container = container
        self._stream = container.add_stream_from_template(stream)

    def add(self, packet: Packet[AudioStream]) -> None:
        if packet.dts is None:  # PyAV's end marker
            return
        packet.stream = self._stream
        self._container.mux(packet)

    def end(self) -> None:
        """Do nothing: no packet is buffered."""


class _Encoded:
    """A track that is encoded again, because the film's container cannot hold its codec."""

    def __init__(self, stream: AudioStream, container: OutputContainer, path: str) -> None:
        self._path = path
        self.before, self.after = stream.codec_context.name, container.default_audio_codec
        self._container = container
        self._layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        added: Any = container.add_stream(self.after, rate=_RATE, layout=self._layout)
        self._stream: AudioStream = added
        self._resampler: AudioResampler | None = None

    def add(self, packet: Packet[AudioStream]) -> None:
        with _readable(self._path):
            frames = packet.decode()
        for frame in frames:
            self._encode(frame)

    def end(self) -> None:
        self._encode(None)
        self._container.mux(self._stream.encode(None))

    def _encode(self, frame: AudioFrame | None) -> None:
        if self._resampler is None:
            context = self._stream.codec_context
            context.open(strict=False)  # now the length of its frames is known
            self._resampler = clips.library("encoding sound").AudioResampler(
                context.format, self._layout, _RATE, frame_size=context.frame_size or None
            )
        for each in self._resampler.resample(frame):
            self._container.mux(self._stream.encode(each))
