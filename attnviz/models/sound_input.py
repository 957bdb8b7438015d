"""Makes the spectrogram that a model is given, by its own feature extractor, and its picture."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import ImageError, UsageError
from attnviz.geometry.grid import Box, Patch, TokenGrid, patch_of, sides
from attnviz.geometry.placement import Placement
from attnviz.geometry.sound_axes import SoundAxes
from attnviz.io.parts import Part
from attnviz.io.picture import Picture, PictureLike
from attnviz.io.picture_files import Note
from attnviz.io.ranges import FULL
from attnviz.io.waveforms import is_sound, read_waveform


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
        takes_start: whether the extractor takes the beginning of a sound that is too long, and no
            other or random part.
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
    takes_start: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of an input: of every one, or of an example."""
        return len(self.hertz), self.columns or 4 * len(self.hertz)

    @property
    def longest(self) -> int | None:
        """Samples of a longer sound that its extractor may get; None if it gets all of them."""
        if self.columns is None or self.takes_start:
            return None
        return longest(self.columns, self.start, self.step, self.rate)

    def picture(self, data: bytes, path: str, range: str, part: Part) -> Picture:  # noqa: A002
        """The bytes of a file of sound as a picture: time to the right, frequency upwards.

        Raises:
            UsageError: a part or a range is requested, as of a picture.
            ImageError: there is no sound in it, or it is too short.
            MissingExtraError: PyAV is not installed.
        """
        self._check(range, part)
        try:
            wave = read_waveform(data, path, self.rate)
        except ImageError as error:
            raise (
                error if is_sound(path) else ImageError(self._refused(path, "no sound"))
            ) from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                samples = wave.samples[: self.longest]
                given = extracted(self.extractor, samples, self.rate, self.name)
            except Exception as error:  # what an extractor does with few samples
                raise ImageError(
                    f"{path}: no spectrogram of its {wave.duration:.3g} s "
                    f"({' '.join(str(error).split())}); give a longer sound"
                ) from error
        found = given.T if self.time_first else given
        features = np.ascontiguousarray(found[::-1] if self.rising else found, dtype=np.float32)
        heard = features
        if self.columns is not None:  # else nothing is padded
            heard = features[:, : self._heard(wave.duration, self.columns)]
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
            raise UsageError(self._refused(picture.path, "a picture"))
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
            raise UsageError(self._refused(picture.path, "a picture"))
        return picture.features[..., None]

    def _refused(self, path: str, kind: str) -> str:
        return f"{path}: {kind}, and {self.spec} hears sounds; give a WAV, FLAC, MP3, OGG …"

    def _heard(self, duration: float, most: int) -> int:
        """Number of frames whose window lies in the sound."""
        lead = max(self.start, self.step / 2)
        return min(most, max(1, int((duration - 2 * lead) / self.step + 1e-6) + 1))

    def _check(self, range: str, part: Part) -> None:  # noqa: A002
        if not part.whole:
            given = next(n for n in ("channels", "slice", "region") if getattr(part, n) is not None)
            raise UsageError(f"--{given} is of pictures; {self.spec} hears sounds: leave it out")
        if range != FULL:
            raise UsageError(f"--range is of pictures; {self.spec} hears sounds: leave it out")


def longest(columns: int, start: float, step: float, rate: int) -> int:
    """Samples that the windows of so many frames cover."""
    return round(((columns - 1) * step + 2 * start) * rate)


def extracted(
    extractor: Callable[..., Mapping[str, Any]], samples: NDArray[Any], rate: int, name: str
) -> NDArray[np.float32]:
    """One spectrogram, as an array of two axes."""
    output = extractor(samples.astype(np.float32), sampling_rate=rate, return_tensors="np")
    found = np.asarray(output[name], dtype=np.float32)
    return found.reshape(found.shape[-2:])
