"""Noisy linear imputation: fills removed pixels with weighted means of their neighbours."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csc_array
from scipy.sparse.linalg import splu
from torch import Tensor

NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, for values 0…1."""
BESIDE, DIAGONAL = 1 / 6, 1 / 12
"""Weights of a neighbour beside a pixel, and of a diagonal one."""

CORRECTIONS, SMALL = 8, 1e-7
"""The most corrections of a solution; after one as small as this share of it, the next is not
needed: a correction is at least a hundred times smaller than the one before it."""


def impute(pixels: Tensor, known_pixels: Tensor) -> Tensor:
    """Replace each unknown pixel by the weighted mean of its eight neighbours.

    Neighbours beside a pixel weigh 1/6, diagonal ones 1/12; at the edge, the existing neighbours
    share the weight. This gives one linear equation per unknown pixel; SciPy's sparse solver
    solves them together in float64 (Rong et al., 2202.00449, §4.1). `noisy` adds the noise.

    Args:
        pixels: (channels, height, width); unknown pixels may have any value.
        known_pixels: (height, width) boolean, True somewhere.

    >>> line = torch.tensor([[[0.0, 9.0, 1.0]]])
    >>> impute(line, torch.tensor([[True, False, True]]))
    tensor([[[0.0000, 0.5000, 1.0000]]])
    """
    result, is_known = pixels.clone(), known_pixels.numpy()
    if not is_known.all():
        solved = _solve(pixels.double().numpy(), is_known)
        result[:, ~known_pixels] = torch.from_numpy(solved).to(pixels.dtype)
    return result


def noisy(pixels: Tensor, known_pixels: Tensor, noise: Tensor) -> Tensor:
    """The result of `impute`, with `noise` of the pixels' shape added to the imputed pixels."""
    return torch.where(known_pixels, pixels, impute(pixels, known_pixels) + noise)


def _solve(pixels: NDArray[np.float64], is_known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Solve (Σ w)·x_i − Σ w_ij·x_j = 0 for the unknown pixels i, (channels, unknown).

    The matrix is symmetric and its diagonal dominates, so it needs no pivots; unknowns have the
    order of `_dissection`. It is factorised in float32, which is faster; the solution is then
    corrected in float64 until nothing changes.
    """
    order = _dissection(*is_known.shape)
    unknown = order[~is_known.ravel()[order]]
    matrix, right = _equations(pixels, is_known.shape, unknown)
    solver = splu(
        matrix.astype(np.float32),
        permc_spec="NATURAL",
        diag_pivot_thresh=0.0,
        panel_size=1,
        options={"SymmetricMode": True, "Equil": False},
    )
    solution = np.zeros_like(right)
    for _ in range(CORRECTIONS):
        step = solver.solve((right - matrix @ solution).astype(np.float32))
        solution += step
        if np.abs(step).max() <= SMALL * np.abs(solution).max():
            break
    result = np.empty((len(pixels), is_known.size))
    result[:, unknown] = solution.T
    return result[:, ~is_known.ravel()]


def _equations(
    pixels: NDArray[np.float64], shape: tuple[int, ...], unknown: NDArray[np.int32]
) -> tuple[csc_array, NDArray[np.float64]]:
    """The matrix, (unknown, unknown), and what known neighbours add, (unknown, channels)."""
    places = np.arange(len(unknown), dtype=np.int32)
    number = np.full(shape, -1, dtype=np.int32)
    number.ravel()[unknown] = places
    diagonal, right = np.zeros(len(unknown)), np.zeros((len(unknown), len(pixels)))
    rows, columns, values = [places], [places], [diagonal]
    for here, there, weight in _neighbours(*shape):
        i, j = number[here].ravel(), number[there].ravel()
        both, edge = (i >= 0) & (j >= 0), (i >= 0) & (j < 0)
        diagonal[i[i >= 0]] += weight
        right[i[edge]] += weight * pixels[:, *there].reshape(len(pixels), -1)[:, edge].T
        rows.append(i[both])
        columns.append(j[both])
        values.append(np.full(len(rows[-1]), -weight))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return csc_array(entries, shape=(len(unknown), len(unknown))), right


@lru_cache(maxsize=8)
def _dissection(height: int, width: int) -> NDArray[np.int32]:
    """Numbers of all pixels, in an order in which few new entries appear while they are eliminated.

    Nested dissection (George, 1973): a line of pixels cuts the longer side in two; the line comes
    after both halves, which are ordered in the same way.
    """
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    parts: list[NDArray[np.int32]] = []

    def dissect(part: NDArray[np.int32]) -> None:
        if max(part.shape) <= 2:
            parts.append(part.ravel())
            return
        part = part if part.shape[0] >= part.shape[1] else part.T
        middle = len(part) // 2
        dissect(part[:middle])
        dissect(part[middle + 1 :])
        parts.append(part[middle])

    dissect(pixels)
    return np.concatenate(parts)


def _neighbours(
    height: int, width: int
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], float]]:
    """For each of eight directions: pixels with a neighbour there, the neighbours, a weight."""
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            if down or right:
                here = _inside(-down, height), _inside(-right, width)
                there = _inside(down, height), _inside(right, width)
                yield here, there, DIAGONAL if down and right else BESIDE


def _inside(step: int, size: int) -> slice:
    """The places of a side that remain places of it when `step` is taken back."""
    return slice(max(0, step), size + min(0, step))
