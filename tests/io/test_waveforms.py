"""Sounds as samples: channels, rates and files that are none."""

import io
import wave

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from attnviz.errors import ImageError
from attnviz.io.waveforms import read_waveform


def wav(samples: NDArray[np.float64], rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


def sine(rate: int, seconds: float = 1.0) -> NDArray[np.float64]:
    return np.asarray(0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate))


def test_samples_of_the_model_s_rate_are_those_of_the_file() -> None:
    data = wav(sine(16_000), 16_000)
    found = read_waveform(data, "a.wav", 16_000)
    expected = np.frombuffer(data[44:], "<i2") / np.float32(32768)
    assert np.array_equal(found.samples, expected)
    assert (found.notes, found.duration) == ((), 1.0)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_another_rate_gives_the_same_sound_at_the_same_time(rate: int) -> None:
    found = read_waveform(wav(sine(rate), rate), "a.wav", 16_000)
    assert len(found.samples) == 16_000
    assert np.abs(found.samples - sine(16_000))[200:-200].max() < 1e-4
    assert str(found.notes[0]) == f"resampled from {rate} to 16000 Hz, the model's rate"


def test_channels_are_averaged() -> None:
    left = sine(16_000)
    found = read_waveform(wav(np.stack([left, -0.5 * left], 1), 16_000), "a.wav", 16_000)
    assert np.abs(found.samples - 0.25 * left).max() < 1e-4
    assert str(found.notes[0]) == "its 2 channels are averaged"


def test_the_sound_of_a_compressed_file() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=16_000, layout="mono")
        samples = np.rint(sine(16_000) * 32767).astype("<i2")[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = read_waveform(file.getvalue(), "a.flac", 16_000)
    assert np.array_equal(found.samples, (samples[0] / np.float32(32768)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no sound", "x.wav: cannot be read as a sound (invalid data"),
        (wav(np.zeros(0), 16_000), "x.wav: its sound has no samples; give another file"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:/tmp/other.wav\n", "x.wav: cannot be read as a sound"),
    ],
    ids=["bytes", "empty", "playlist"],
)
def test_files_without_a_sound(data: bytes, words: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_waveform(data, "x.wav", 16_000)
    assert str(caught.value).startswith(words)
