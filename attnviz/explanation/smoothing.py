"""Smoothing of maps: the mean over a picture and its mirror image, or over noisy pictures.

This file has no heavy imports, so that a usage error shows at once; `again.py` computes the means.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from attnviz.errors import UsageError
from attnviz.methods import METHODS

SIGMA = 0.15
"""Standard deviation of the noise, by default: SmoothGrad takes 10 to 20 % of the range."""
MOST = 1000


@dataclass(frozen=True)
class Smoothing:
    """How maps are smoothed.

    Attributes:
        kind: `flips` is the mean of the map and that of the mirrored picture, mirrored back;
            `noise` the mean over noisy pictures (SmoothGrad, 1706.03825).
        pictures: how many maps the mean is over.
        sigma: standard deviation of the noise, for pixel values of 0 to 1.
        seed: random seed of the noise.
    """

    kind: Literal["flips", "noise"]
    pictures: int = 2
    sigma: float | None = None
    seed: int = 0

    def __str__(self) -> str:
        if self.kind == "flips":
            return "the mean with its mirror image"
        return f"the mean over {self.pictures} pictures with noise of σ {self.sigma:g}"


def parse_smoothing(
    text: str | None, sigma: float | None = None, seed: int = 0
) -> Smoothing | None:
    """Read the values of `--smooth` and `--sigma`; None without them.

    >>> parse_smoothing("noise:8").sigma
    0.15

    Raises:
        UsageError: they cannot be read, or do not belong together.
    """
    if text is None and sigma is None:
        return None
    noise = re.fullmatch(r"noise:(\d{1,4})", text or "")
    if sigma is not None and noise is None:
        raise UsageError(f"--sigma {sigma:g} is of noise; give it with --smooth noise:16")
    if sigma is not None and not (math.isfinite(sigma) and 0 < sigma <= 1):
        raise UsageError(
            f"--sigma {sigma:g}: give a number over 0 and at most 1, of pixel values from 0 to 1"
        )
    if text == "flips":
        return Smoothing("flips")
    if noise is None or not 1 <= int(noise[1]) <= MOST:
        raise UsageError(
            f"--smooth {text!r} cannot be read; give flips, or noise:N with N from 1 to {MOST}, "
            "such as noise:16"
        )
    return Smoothing("noise", int(noise[1]), SIGMA if sigma is None else sigma, seed)


def check_smoothing(
    smoothing: Smoothing, methods: Sequence[str], *, words: bool = False, relative: bool = False
) -> None:
    """Refuse to smooth what has no mean.

    Args:
        smoothing: how maps are smoothed.
        methods: names of methods.
        words: whether the model is asked in words.
        relative: whether maps are divided by those of another prompt.

    Raises:
        UsageError: a method's maps have no mean, or noise has no place.
    """
    parts = next((name for name in methods if METHODS[name].components), None)
    if parts is not None:
        raise UsageError(
            f"--smooth: the parts of {parts} differ from run to run, and have no mean; leave it out"
        )
    if words and smoothing.kind == "noise":
        raise UsageError(
            "--smooth noise: with a prompt the model's own processor makes its input; take "
            "--smooth flips"
        )
    if relative:
        raise UsageError(
            "--smooth: the maps of --baseline-prompt are ratios; leave one of them out"
        )
