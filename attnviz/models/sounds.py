"""Makes the spectrogram that a model is given, by its own feature extractor, and measures its axes.

Nothing of an extractor is known beforehand but how it is called and its rate. Clicks at known times
show which axis is time, and the times of the frames; tones that rise show the hertz of each row.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, ImageError, ModelError, UsageError
from attnviz.geometry.grid import Box, Patch, TokenGrid, patch_of, sides
from attnviz.geometry.placement import Placement
from attnviz.geometry.sound_axes import SoundAxes
from attnviz.io.parts import Part
from attnviz.io.picture import Picture, PictureLike
from attnviz.io.picture_files import STDIN, Note
from attnviz.io.ranges import FULL
from attnviz.io.waveforms import is_sound, read_waveform

Array = NDArray[np.float64]
_PAIR = 0.1, 0.3
"""Seconds of two clicks, which inputs of half a second show."""
_CLICKS, _APART = 24, 8
"""Clicks that are measured at most, and frames from one to the next at least."""
_SWEEP = 12.0
"""Seconds in which tones rise from 0 Hz to the highest frequency, over all sounds together."""
_PEAK = 0.3
"""A row hears a tone where it is within this share of its range below its largest value."""


@dataclass(frozen=True, eq=False)
class SoundInput:
    """How a model is given sounds.

    Attributes:
        spec: the model's spec, for errors.
        extractor: its feature extractor, a function of samples.
        name: the output of the extractor, and the argument of `forward`, with the spectrogram.
        rate: samples per second.
        columns: number of frames of every input; None if it grows with the sound.
        time_first: whether rows of the input are frames: (time, frequency).
        rising: whether frequencies rise with the number of their row.
        leading: number of axes of length 1 before these two, beside the batch.
        start, step: time of the middle of the first frame, and from frame to frame, in seconds.
        hertz: frequency of the middle of each row, the lowest first.
    """

    spec: str
    extractor: Callable[..., Mapping[str, Any]]
    name: str
    rate: int
    columns: int | None
    time_first: bool
    rising: bool
    leading: int
    start: float
    step: float
    hertz: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an input: of every one, or of an example."""
        return len(self.hertz), self.columns or 4 * len(self.hertz)

    def picture(self, data: bytes, path: str, range: str, part: Part) -> Picture:  # noqa: A002
        """The bytes of a file of sound as a picture: time to the right, frequency upwards.

        Raises:
            UsageError: a part or a range is requested, as of a picture.
            ImageError: there is no sound in it, or it is too short.
            MissingExtraError: PyAV is not installed.
        """
        self._check(path, range, part)
        wave = read_waveform(data, path, self.rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                given = extracted(self.extractor, wave.samples, self.rate, self.name)
            except Exception as error:  # what an extractor does with few samples
                raise ImageError(
                    f"{path}: no spectrogram of its {wave.duration:.3g} s "
                    f"({' '.join(str(error).split())}); give a longer sound"
                ) from error
        found = given.T if self.time_first else given
        features = np.ascontiguousarray(found[::-1] if self.rising else found, dtype=np.float32)
        heard = features[:, : self._heard(wave.duration, features.shape[1])]
        low, high = float(heard.min()), float(heard.max())
        grey = np.rint((heard - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
        axes = SoundAxes(wave.duration, self.start, self.step, self.hertz)
        notes, end = wave.notes, axes.time(heard.shape[1])
        if wave.duration - end > max(self.start, self.step) + self.step:
            text = f"the model hears its first {end:.4g} s of {wave.duration:.4g} s; cut out the "
            notes = (*notes, Note("long", f"{text}part to look at, as a file of its own"))
        pixels = np.repeat(grey[..., None], 3, axis=2)
        return Picture(path, pixels, (low, high), notes, sound=axes, features=features)

    def place(self, picture: PictureLike, patch: Patch, prefix: int) -> Placement:
        """How a spectrogram lies in the input: at its left; the rest is padding.

        Raises:
            UsageError: it is a picture, or another model's spectrogram.
        """
        rows, most = len(self.hertz), self.columns or picture.width
        if picture.height != rows or picture.width > most:
            raise UsageError(self.no_sound(picture.path))
        height, width = (
            int(np.gcd(side, length))
            for side, length in zip(sides(patch), (rows, most), strict=True)
        )
        grid = TokenGrid(rows // height, most // width, patch_of(height, width), prefix)
        part = Box(0.0, 0.0, float(picture.width), float(rows))
        fit: Any = "keep" if picture.width == most else "pad"
        return Placement(picture.width, rows, part, part, grid, fit)

    def lay(self, picture: Picture) -> NDArray[np.float32]:
        """The input for a spectrogram, (rows, columns, 1), with the extractor's own padding.

        Raises:
            UsageError: it is a picture.
        """
        if picture.features is None:
            raise UsageError(self.no_sound(picture.path))
        return picture.features[..., None]

    def no_sound(self, path: str) -> str:
        """The error for a picture."""
        return f"{path}: a picture, and {self.spec} hears sounds; give a sound, such as speech.wav"

    def _heard(self, duration: float, most: int) -> int:
        """Number of frames whose window lies in the sound."""
        lead = max(self.start, self.step / 2)
        return min(most, max(1, int((duration - 2 * lead) / self.step + 1e-6) + 1))

    def _check(self, path: str, range: str, part: Part) -> None:  # noqa: A002
        if not part.whole:
            given = next(n for n in ("channels", "slice", "region") if getattr(part, n) is not None)
            raise UsageError(f"--{given} is of pictures; {self.spec} hears sounds: leave it out")
        if range != FULL:
            raise UsageError(f"--range is of pictures; {self.spec} hears sounds: leave it out")


def extracted(
    extractor: Callable[..., Mapping[str, Any]], samples: NDArray[Any], rate: int, name: str
) -> NDArray[np.float32]:
    """One spectrogram, as an array of two axes."""
    output = extractor(samples.astype(np.float32), sampling_rate=rate, return_tensors="np")
    found = np.asarray(output[name], dtype=np.float32)
    return found.reshape(found.shape[-2:])


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
        raise ModelError(f"{spec}: takes several spectrograms of a sound at once, {shape}; give a "
                         "model of one")  # fmt: skip

    def spectrogram(samples: Array) -> NDArray[np.float32]:
        return extracted(extractor, samples, rate, name)

    def clicks(times: Sequence[float], count: int) -> NDArray[np.float32]:
        """What single loud samples add to silence, which need not look like padding."""
        samples = np.zeros(count)
        quiet = spectrogram(samples)
        samples[[round(at * rate) for at in times]] = 0.9
        return spectrogram(samples) - quiet

    first, second = (clicks([at], rate) for at in _PAIR)
    if min(first.shape) < 2:
        raise ModelError(no_spectrogram(spec))
    moved = [abs(_loudest(first, axis) - _loudest(second, axis)) / first.shape[axis]
             for axis in (0, 1)]  # fmt: skip
    time_first = moved[0] > moved[1]
    axis = 0 if time_first else 1
    rows = first.shape[1 - axis]
    longer = spectrogram(np.zeros(3 * rate)).shape[axis]
    columns = first.shape[axis] if longer == first.shape[axis] else None

    start, step = _times(
        spec, lambda times, count: clicks(times, count).mean(1 - axis), columns, rate
    )
    length = 4.0 if columns is None else max(step, (columns - 2) * step)
    hertz = _hertz(
        spec, lambda samples: np.moveaxis(spectrogram(samples), axis, 1), rate, length,
        (start, step), rows,
    )  # fmt: skip
    rising = hertz[-1] > hertz[0]
    return SoundInput(
        spec, extractor, name, rate, columns, time_first, rising, len(shape) - 3, start, step,
        tuple(round(float(each), 2) for each in (hertz if rising else hertz[::-1])),
    )  # fmt: skip


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


def _times(
    spec: str,
    clicked: Callable[[Sequence[float], int], NDArray[np.float32]],
    columns: int | None,
    rate: int,
) -> tuple[float, float]:
    """Time of the first frame and from frame to frame, in seconds, by clicks at known times.

    `clicked` gives what clicks at some times add to each frame of a silence of so many samples.
    Frames are a whole number of samples apart.
    """
    pair = _middles(clicked(_PAIR, rate))
    if len(pair) < 2:
        raise ModelError(no_spectrogram(spec))
    rough = (_PAIR[1] - _PAIR[0]) / (pair[1] - pair[0])
    seconds = 4.0 if columns is None else (columns - 2) * rough
    count = min(_CLICKS, int(seconds / rough / _APART))
    times = [(k + 0.5 + k / count / _APART) * seconds / (count + 1) for k in range(count)]
    found = _middles(clicked(times, round(seconds * rate)))
    if count < 2 or len(found) != count:
        raise ModelError(no_spectrogram(spec))
    exact = np.array([round(at * rate) / rate for at in times])
    slope = np.polyfit(found, exact, 1)[0]
    step = round(slope * rate) / rate
    if abs(step - slope) > 0.02 * slope:
        raise ModelError(no_spectrogram(spec))
    start = round(float((exact - found * step).mean()) * rate) / rate
    return start, step


def _hertz(
    spec: str,
    frames: Callable[[Array], NDArray[np.float32]],
    rate: int,
    length: float,
    times: tuple[float, float],
    rows: int,
) -> Array:
    """The frequency of each row, by tones that rise through all frequencies.

    They rise as a mel scale does, so that every row hears them about as long. A row that hears none
    (an empty filter) lies between its neighbours.
    """
    count = max(1, round(_SWEEP / length))
    highest, start, step = np.log1p(rate / 2 / 700), *times
    values, tones = [], []
    for k in range(count):
        at = np.arange(round(length * rate)) / rate
        phase = np.cumsum(700 * np.expm1((k + at / length) / count * highest)) / rate
        part = frames(0.5 * np.sin(2 * np.pi * phase))
        middle = start + step * np.arange(part.shape[1])
        inside = (middle > 2 * step) & (middle < length - 2 * step)
        values.append(part[:, inside])
        tones.append(700 * np.expm1((k + middle[inside] / length) / count * highest))
    heard, tone = np.concatenate(values, 1).astype(np.float64), np.concatenate(tones)
    top, middle = heard.max(1), np.median(heard, 1)
    loud = (heard - (top - _PEAK * (top - middle))[:, None]).clip(0)
    found = np.full(rows, np.nan)
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
    return np.interp(np.arange(len(found)), places, [ends[0][1], *found[kept], ends[1][1]])
