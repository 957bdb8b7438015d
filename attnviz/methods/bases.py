"""Principal components of tokens: sums over any number of pictures, and the axes that they give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.errors import UsageError

MOST = 16
"""Components that are kept."""
FORMAT = "attnviz basis 2"
HEAD = 4
"""Parameters that may differ between two models of the same tokens: those of another head."""


@dataclass(frozen=True)
class Axes:
    """Principal axes of tokens.

    Attributes:
        mean: (features,), the mean token.
        axes: (components, features), of length 1, by variance.
        variances: (components,), of the tokens along each axis.
        total: the sum of the variances of all features.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    total: float

    def scores(self, features: Tensor) -> Tensor:
        """Standard scores of tokens (…, features) along the axes, (…, components) float64."""
        deviations = self.variances.clamp_min(1e-300).sqrt()
        return (features.double() - self.mean) @ self.axes.T / deviations

    @property
    def shares(self) -> Tensor:
        """The share of the variance that each component explains."""
        return self.variances / max(self.total, 1e-300)


@dataclass
class TokenSums:
    """Sums over tokens, in memory that does not grow with their number.

    Chan, Golub & LeVeque 1983 merge means and scatter without loss of digits.
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    inside: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def add(self, features: Tensor, border: Tensor) -> None:
        """Add tokens, (n, features), and whether each lies on the border of its grid, (n,)."""
        x = features.detach().double().cpu()
        if not self.count:
            self.mean, self.inside = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
            self.scatter = x.new_zeros(x.shape[1], x.shape[1])
        if not len(x):
            return
        if x.shape[1] != len(self.mean):
            raise UsageError("pictures have tokens of different widths; a basis takes one model")
        middle, total = x.mean(0), self.count + len(x)
        step = middle - self.mean
        centred = x - middle
        self.scatter += centred.T @ centred
        if self.count:
            self.scatter += torch.outer(step, step) * (self.count * len(x) / total)
        self.mean = self.mean + step * (len(x) / total)
        edge = border.cpu()
        if bool(edge.any()) and not bool(edge.all()):
            self.inside = self.inside + len(x) * (x[~edge].mean(0) - x[edge].mean(0))
        self.count = total

    def axes(self, *, oriented: bool) -> Axes:
        """The principal axes of all tokens so far.

        The largest number of an axis is positive. If `oriented`, the first one points from the
        border of the pictures to their inside, where objects are.

        Raises:
            UsageError: there are fewer than two tokens.
        """
        if self.count < 2:
            raise UsageError("fewer than two tokens are left; give a lower --foreground")
        from scipy.linalg import eigh  # noqa: PLC0415 — takes a sixth of a second

        covariance, width = (self.scatter / self.count).numpy(), len(self.mean)
        some = [max(width - MOST, 0), width - 1]  # the largest
        values, vectors = map(torch.from_numpy, eigh(covariance, subset_by_index=some))
        axes = vectors.flip(1).T
        largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)
        if oriented and float(axes[0] @ self.inside) < 0:
            axes = torch.cat([-axes[:1], axes[1:]])
        total = float(np.trace(covariance))
        return Axes(self.mean, axes, values.flip(0).clamp_min(0), total)


@dataclass(frozen=True)
class Basis:
    """The axes of layers, of one picture or of many.

    Attributes:
        of: what the tokens are: `tokens`, `keys`, `queries` or `values`.
        whole: of each layer the axes of all tokens.
        foreground: of each layer those of the tokens whose first score is over `over`; empty
            without a foreground.
        over: the least first score of the foreground; None: all tokens count.
        model: the spec of the model.
        weights: digests of the model's parameters.
    """

    of: str
    whole: Mapping[int, Axes]
    foreground: Mapping[int, Axes] = field(default_factory=dict)
    over: float | None = None
    model: str = ""
    weights: frozenset[str] = frozenset()

    def arrays(self) -> dict[str, Any]:
        """As arrays for an `.npz` file."""
        arrays: dict[str, Any] = {"format": FORMAT, "of": self.of, "model": self.model}
        arrays["weights"] = sorted(self.weights)
        arrays["over"] = np.nan if self.over is None else self.over
        for part, layers in (("whole", self.whole), ("foreground", self.foreground)):
            for number, axes in layers.items():
                for name in ("mean", "axes", "variances", "total"):
                    arrays[f"{part}_{number}_{name}"] = np.asarray(getattr(axes, name))
        return arrays


def check_model(path: str, weights: frozenset[str]) -> None:
    """Refuse the file of a basis that another model made.

    Args:
        path: the file.
        weights: digests of the parameters of the model that is asked.

    Raises:
        UsageError: it is no such file, or of another model.
    """
    basis = load_basis(path)
    smaller = min(basis.weights, weights, key=len)
    if len(smaller - (basis.weights & weights)) > min(HEAD, len(smaller) // 2):
        raise UsageError(
            f"--basis {path} was made with {basis.model}, whose weights are others than this "
            "model's; name another file, which is made of these pictures, or remove this one"
        )


def load_basis(path: str) -> Basis:
    """A basis from its file.

    Raises:
        UsageError: it is no such file, or does not know its model.
    """
    try:
        return _load(path, Path(path).stat().st_mtime_ns)
    except FileNotFoundError:
        line = "show, batch and video make it; in Python fit_basis"
        raise UsageError(f"--basis {path}: there is no such file; {line}") from None
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"--basis {path} is no basis of attnviz; name one, or a file to make"
        ) from error


@lru_cache(maxsize=4)
def _load(path: str, time: int) -> Basis:  # noqa: ARG001 — a changed file is read again
    with np.load(path, allow_pickle=False) as file:
        if str(file["format"]) == "attnviz basis 1":
            line = "is of an earlier attnviz and does not say of which model; remove it"
            raise UsageError(f"--basis {path} {line}, and it is made again")
        if str(file["format"]) != FORMAT:
            raise ValueError("another format")
        parts: dict[str, dict[int, Axes]] = {"whole": {}, "foreground": {}}
        for name in file.files:
            part, _, rest = name.partition("_")
            if part in parts and rest.endswith("_mean"):
                number = rest.removesuffix("_mean")
                mean, axes, variances, total = (
                    torch.from_numpy(np.atleast_1d(file[f"{part}_{number}_{each}"]))
                    for each in ("mean", "axes", "variances", "total")
                )
                parts[part][int(number)] = Axes(mean, axes, variances, float(total))
        over = float(file["over"])
        return Basis(
            str(file["of"]),
            parts["whole"],
            parts["foreground"],
            None if over != over else over,  # noqa: PLR0124 — NaN
            str(file["model"]),
            frozenset(map(str, file["weights"])),
        )
