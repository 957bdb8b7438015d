"""Converts places on a spectrogram's picture to seconds and hertz, and back.

Column i of the picture, [i, i + 1), is a frame of the sound; its middle is at `start + i·step`.
Rows are bands of frequency, the lowest at the bottom; `hertz` has the middle of each.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attnviz.geometry.grid import Array


@dataclass(frozen=True)
class SoundAxes:
    """The seconds and hertz of a spectrogram's picture.

    >>> axes = SoundAxes(2.0, 0.0125, 0.01, (100.0, 200.0, 400.0))
    >>> axes.time(10.5), axes.frequency(0.5), axes.x(0.1125), axes.y(200.0)
    (0.1125, 400.0, 10.5, 1.5)

    Attributes:
        duration: length of the whole sound in seconds; the picture may show its beginning only.
        start: time of the middle of the first column.
        step: seconds from column to column.
        hertz: frequency of the middle of each row, the lowest first.
    """

    duration: float
    start: float
    step: float
    hertz: tuple[float, ...]

    @property
    def height(self) -> int:
        """Number of rows."""
        return len(self.hertz)

    def time(self, x: float) -> float:
        """Seconds at a position from the left, in picture pixels."""
        return round(self.start + (x - 0.5) * self.step, 9)

    def x(self, seconds: float) -> float:
        """Position of a time, in picture pixels from the left; the inverse of `time`."""
        return round((seconds - self.start) / self.step + 0.5, 6)

    def frequency(self, y: float) -> float:
        """Hertz at a position from the top, in picture pixels; linear between middles of rows."""
        return float(np.interp(self.height - y, *self._edges))

    def y(self, hertz: float) -> float:
        """Position of a frequency, in picture pixels from the top; the inverse of `frequency`."""
        heights, frequencies = self._edges
        return self.height - float(np.interp(hertz, frequencies, heights))

    @cached_property
    def _edges(self) -> tuple[Array, Array]:
        """Heights above the bottom and their hertz: middles of rows, and the two borders."""
        middles = np.array(self.hertz)
        low = max(0.0, middles[0] - (middles[1] - middles[0]) / 2)
        high = middles[-1] + (middles[-1] - middles[-2]) / 2
        heights = np.concatenate([[0], np.arange(self.height) + 0.5, [self.height]])
        return heights, np.concatenate([[low], middles, [high]])

    @property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest frequency of the picture, in hertz."""
        return self.frequency(self.height), self.frequency(0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two others, at most `most`: 1, 2 or 5 times a power of ten apart.

    >>> ticks(0.0075, 2.03, 5)
    [0.5, 1.0, 1.5, 2.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(f * power for f in (1, 2, 5, 10) if (high - low) / (f * power) <= most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]
