"""Measures a feature extractor of sounds by what it makes of known ones: its axes and their units.

Nothing of an extractor is known beforehand but how it is called and its rate. Clicks at known times
show which axis is time, and the times of the frames; tones that rise show the hertz of each row.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, ModelError
from attnviz.models.sound_input import SoundInput, extracted, longest

Array = NDArray[np.float64]
_PAIR = 0.1, 0.3
"""Seconds of two clicks, which inputs of half a second show."""
_CLICKS, _APART = 24, 8
"""Clicks that are measured at most, and frames from one to the next at least."""
_SWEEP = 12.0
"""Seconds in which tones rise from 0 Hz to the highest frequency, over all sounds together."""
_PEAK = 0.3
"""A row hears a tone where it is within this share of its range below its largest value."""


def measured(spec: str, extractor: Any) -> SoundInput:
    """The input of a model, measured by what its feature extractor makes of known sounds.

    Raises:
        ModelError: the extractor makes no spectrogram.
    """
    rate = int(extractor.sampling_rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _measured(spec, extractor, rate)
        except AttnvizError:
            raise
        except Exception as error:  # a library is missing, or it takes something else
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{spec}: its feature extractor fails ({reason})") from error


def _measured(spec: str, extractor: Any, rate: int) -> SoundInput:
    output = extractor(np.zeros(rate, np.float32), sampling_rate=rate, return_tensors="np")
    arrays = {n: np.asarray(v) for n, v in output.items() if np.asarray(v).dtype.kind == "f"}
    name = next((n for n, v in arrays.items() if v.ndim > 2), None)
    if name is None:
        raise ModelError(
            f"{spec}: takes the samples of a sound, and no spectrogram; give a model of "
            "spectrograms, such as an Audio Spectrogram Transformer or Whisper"
        )
    shape = arrays[name].shape
    if any(side != 1 for side in shape[:-2]):
        raise ModelError(
            f"{spec}: takes several spectrograms of a sound at once ({'x'.join(map(str, shape))}); "
            "give a model of one"
        )
    given = _Extractor(extractor, name, rate)
    first, second = (given.clicks([at], rate) for at in _PAIR)
    if min(first.shape) < 2:
        raise ModelError(no_spectrogram(spec))
    moved = [abs(_loudest(first, axis) - _loudest(second, axis)) / first.shape[axis]
             for axis in (0, 1)]  # fmt: skip
    given = replace(given, axis=0 if moved[0] > moved[1] else 1)
    count = first.shape[given.axis]
    columns = count if given.frames(np.zeros(3 * rate)).shape[1] == count else None
    start, step = _times(spec, given, columns)
    hertz = _hertz(spec, given, 4.0 if columns is None else (columns - 2) * step, (start, step))
    rising = bool(hertz[-1] > hertz[0])
    takes_start = columns is None or _takes_start(given, columns, start, step)
    middles = tuple(round(float(each), 2) for each in (hertz if rising else hertz[::-1]))
    return SoundInput(
        spec, extractor, name, rate, columns, given.axis == 0, rising, len(shape) - 3, start, step,
        middles, takes_start,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Extractor:
    """A feature extractor that is asked for spectrograms; `axis` is that of time."""

    function: Any
    name: str
    rate: int
    axis: int = 1

    def frames(self, samples: Array) -> NDArray[np.float32]:
        """The spectrogram of some samples, (rows, frames)."""
        found = extracted(self.function, samples, self.rate, self.name)
        return np.moveaxis(found, self.axis, 1)

    def clicks(self, times: Sequence[float], count: int) -> NDArray[np.float32]:
        """What single loud samples add to silence, which need not look like padding."""
        samples = np.zeros(count)
        quiet = self.frames(samples)
        samples[[round(at * self.rate) for at in times]] = 0.9
        return self.frames(samples) - quiet


def _takes_start(given: _Extractor, columns: int, start: float, step: float) -> bool:
    """Whether the extractor takes the beginning of a sound that is too long."""
    noise = np.random.RandomState(0).uniform(-0.5, 0.5, 2 * round(columns * step * given.rate))
    cut = noise[: longest(columns, start, step, given.rate)]
    half, expected = (given.frames(samples)[:, : columns // 2] for samples in (noise, cut))
    return np.allclose(half, expected, atol=1e-3)


def no_spectrogram(spec: str) -> str:
    """The error for an extractor whose output has no axes of time and frequency."""
    return (
        f"{spec}: its feature extractor makes no spectrogram of frames and frequencies; give a "
        "model of spectrograms, such as an Audio Spectrogram Transformer or Whisper"
    )


def _loudest(values: NDArray[np.float32], axis: int) -> int:
    """Where the mean over the other axis is largest."""
    return int(values.mean(axis=1 - axis).argmax())


def _middles(profile: NDArray[np.float32]) -> Array:
    """Middles of the groups of neighbours that stand out of a profile, in order."""
    above = profile - np.median(profile)
    loud = above > 0.25 * above.max()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], loud, [False]]).astype(int)))
    return np.array([
        np.average(np.arange(a, b), weights=above[a:b]) for a, b in edges.reshape(-1, 2)
    ])  # fmt: skip


def _times(spec: str, given: _Extractor, columns: int | None) -> tuple[float, float]:
    """Time of the first frame and from frame to frame, in seconds, by clicks at known times.

    Frames are a whole number of samples apart.
    """
    rate = given.rate
    pair = _middles(given.clicks(_PAIR, rate).mean(0))
    if len(pair) < 2:
        raise ModelError(no_spectrogram(spec))
    rough = (_PAIR[1] - _PAIR[0]) / (pair[1] - pair[0])
    seconds = 4.0 if columns is None else (columns - 2) * rough
    count = min(_CLICKS, int(seconds / rough / _APART))
    times = [(k + 0.5 + k / count / _APART) * seconds / (count + 1) for k in range(count)]
    found = _middles(given.clicks(times, round(seconds * rate)).mean(0))
    if count < 2 or len(found) != count:
        raise ModelError(no_spectrogram(spec))
    exact = np.array([round(at * rate) / rate for at in times])
    slope = np.polyfit(found, exact, 1)[0]
    step = round(slope * rate) / rate
    if abs(step - slope) > 0.02 * slope:
        raise ModelError(no_spectrogram(spec))
    start = round(float((exact - found * step).mean()) * rate) / rate
    return start, step


def _hertz(spec: str, given: _Extractor, length: float, times: tuple[float, float]) -> Array:
    """The frequency of each row, by tones that rise through all frequencies.

    They rise as a mel scale does, so that every row hears them about as long. A row that hears none
    (an empty filter) lies between its neighbours.
    """
    count = max(1, round(_SWEEP / length))
    rate, (start, step) = given.rate, times
    highest = np.log1p(rate / 2 / 700)
    values, tones = [], []
    for k in range(count):
        at = np.arange(round(length * rate)) / rate
        phase = np.cumsum(700 * np.expm1((k + at / length) / count * highest)) / rate
        part = given.frames(0.5 * np.sin(2 * np.pi * phase))
        middle = start + step * np.arange(part.shape[1])
        inside = (middle > 2 * step) & (middle < length - 2 * step)
        values.append(part[:, inside])
        tones.append(700 * np.expm1((k + middle[inside] / length) / count * highest))
    heard, tone = np.concatenate(values, 1).astype(np.float64), np.concatenate(tones)
    top, middle = heard.max(1), np.median(heard, 1)
    loud = (heard - (top - _PEAK * (top - middle))[:, None]).clip(0)
    found = np.full(len(heard), np.nan)
    known = (top - middle) > 0.1 * np.max(top - middle)
    found[known] = (loud[known] @ tone) / loud[known].sum(1)
    return _between(spec, found)


def _between(spec: str, found: Array) -> Array:
    """Frequencies that rise or fall from row to row; rows that do not lie between others.

    Raises:
        ModelError: too few do: rows are no frequencies.
    """
    numbers = np.flatnonzero(np.isfinite(found))
    if len(numbers) < 2:
        raise ModelError(no_spectrogram(spec))
    sign = 1 if np.corrcoef(numbers, found[numbers])[0, 1] > 0 else -1
    kept: list[int] = []
    for number in numbers:
        if not kept or sign * (found[number] - found[kept[-1]]) > 1.0:
            kept.append(int(number))
    if len(kept) < max(2, len(found) // 2):
        raise ModelError(no_spectrogram(spec))
    slope = np.polyfit(kept[:2], found[kept[:2]], 1), np.polyfit(kept[-2:], found[kept[-2:]], 1)
    ends = [(-1, np.polyval(slope[0], -1)), (len(found), np.polyval(slope[1], len(found)))]
    places = [ends[0][0], *kept, ends[1][0]]
    values = [ends[0][1], *found[kept], ends[1][1]]
    return np.asarray(np.interp(np.arange(len(found)), places, values), dtype=np.float64)
