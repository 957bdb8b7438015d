"""Imputation against the same equations, written out pixel by pixel and solved as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from attnviz.evaluation.road import impute, noisy


def equations(
    pixels: NDArray[np.float64], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and right sides of one equation a pixel; of a known one, x = its value."""
    channels, height, width = pixels.shape
    matrix = np.eye(height * width)
    right = pixels.reshape(channels, -1).T * known.reshape(-1, 1)
    for y in range(height):
        for x in range(width):
            if known[y, x]:
                continue
            row = matrix[y * width + x]
            row[:] = 0
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    if (v, u) != (y, x):
                        weight = 1 / 6 if v == y or u == x else 1 / 12
                        row[v * width + u] -= weight
                        row[y * width + x] += weight
    return matrix, right


def dense(pixels: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The solution of all equations, (channels, height, width)."""
    solved = np.asarray(np.linalg.solve(*equations(pixels, known)).T, dtype=np.float64)
    return solved.reshape(pixels.shape)


@given(st.integers(1, 14), st.integers(2, 17), st.floats(0.02, 0.95), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_it_is_the_dense_solution(height: int, width: int, share: float, seed: int) -> None:
    stream = np.random.default_rng(seed)
    pixels = stream.random((3, height, width))
    known = stream.random((height, width)) > share
    known[stream.integers(height), stream.integers(width)] = True
    found = impute(torch.from_numpy(pixels), torch.from_numpy(known)).numpy()
    np.testing.assert_allclose(found, dense(pixels, known), atol=1e-9)
    np.testing.assert_array_equal(found[:, known], pixels[:, known])


def test_a_wide_hole_in_float32_is_the_dense_solution() -> None:
    y, x = np.mgrid[:40, :40]
    pixels = np.stack([x / 40.0, np.sin(y / 5), (x > 20) * 1.0])
    known = np.hypot(x - 18, y - 22) > 16
    found = impute(torch.from_numpy(pixels).float(), torch.from_numpy(known)).numpy()
    np.testing.assert_allclose(found, dense(pixels, known), atol=1e-6)


def test_a_slope_is_filled_with_the_slope() -> None:
    slope = torch.linspace(0, 1, 12).expand(1, 12, 12)
    known = torch.ones(12, 12, dtype=torch.bool)
    known[3:9, 2:10] = False
    assert impute(slope, known).numpy() == pytest.approx(slope.numpy(), abs=1e-6)


def test_what_is_not_known_may_have_any_value() -> None:
    known = torch.rand(9, 9, generator=torch.manual_seed(0)) > 0.5
    pixels = torch.rand(3, 9, 9)
    other = torch.where(known, pixels, torch.nan)
    np.testing.assert_array_equal(impute(pixels, known), impute(other, known))


def test_noise_is_added_to_what_was_imputed_alone() -> None:
    known = torch.rand(9, 9, generator=torch.manual_seed(0)) > 0.5
    pixels, noise = torch.rand(3, 9, 9), torch.randn(3, 9, 9)
    found = noisy(pixels, known, noise) - impute(pixels, known)
    np.testing.assert_allclose(found, torch.where(known, 0.0, noise), atol=1e-6)


def test_where_all_is_known_nothing_changes() -> None:
    pixels = torch.rand(3, 4, 5)
    assert torch.equal(impute(pixels, torch.ones(4, 5, dtype=torch.bool)), pixels)
