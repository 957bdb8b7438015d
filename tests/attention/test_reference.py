"""The reference formulas against values known by hand, and against the NumPy oracle."""

import math

import numpy as np
import oracle
import pytest
import torch

from attnviz.attention import reference
from attnviz.geometry.grid import TokenGrid


def uniform(n: int) -> torch.Tensor:
    return torch.full((1, 1, n, n), 1 / n, dtype=torch.float64)


@pytest.mark.parametrize(
    ("rows", "columns", "patch", "expected"),
    [
        (14, 14, 16, 116.4922),
        (16, 16, 14, 116.5651),
        (28, 28, 8, 116.7216),
        (37, 37, 14, 269.9919),
        (10, 20, 16, 128.4721),
        (56, 28, (4, 8), 116.7495),
        (1, 112, (32, 4), 149.3214),
    ],
)
def test_mean_distance_of_uniform_attention(
    rows: int, columns: int, patch: int | tuple[int, int], expected: float
) -> None:
    grid = TokenGrid(rows, columns, patch)
    everything = torch.ones(grid.tokens, dtype=torch.bool)
    centres = torch.from_numpy(grid.centres())
    distance = reference.distance(uniform(grid.tokens), everything, centres)
    assert float(distance) == pytest.approx(expected, abs=5e-5)


def test_distance_from_the_corner_of_a_14_by_14_grid() -> None:
    centres = torch.from_numpy(TokenGrid(14, 14, 16).centres())
    assert float((centres - centres[0]).norm(dim=1).mean()) == pytest.approx(161.0302, abs=5e-5)


def test_entropy_of_uniform_attention_is_the_log_of_the_keys() -> None:
    everything = torch.ones(196, dtype=torch.bool)
    assert float(reference.entropy(uniform(196), everything)) == pytest.approx(5.278115, abs=1e-6)
    assert float(reference.entropy_ratio(uniform(196), everything, 196)) == pytest.approx(1)


def test_a_one_hot_row_has_entropy_0_and_confidence_1() -> None:
    a = torch.eye(7, dtype=torch.float64)[None, None]
    everything = torch.ones(7, dtype=torch.bool)
    assert float(reference.entropy(a, everything)) == 0
    assert float(reference.confidence(a, everything)) == 1
    assert reference.sum_of_squares(a).tolist() == [[[1.0] * 7]]


def test_all_statistics_equal_the_numpy_oracle() -> None:
    rng = np.random.default_rng(5)
    grid = TokenGrid(3, 5, 8, prefix=2)
    n = grid.tokens
    q, k = rng.normal(size=(2, 3, n, 4)) * 2
    part = rng.random(n) < 0.7
    part[:4] = True
    bias = np.where(part, 0.0, -np.inf)[None, None]
    expected = oracle.statistics(
        oracle.attention(q, k, 0.5, bias), grid.centres(), grid.prefix, part
    )
    a = reference.attention_matrix(
        torch.from_numpy(q)[None],
        torch.from_numpy(k)[None],
        scale=0.5,
        bias=torch.from_numpy(part)[None, None, None],
    )
    taking_part = torch.from_numpy(part)
    prefix = torch.arange(n) < grid.prefix
    g, p = taking_part & ~prefix, taking_part & prefix
    centres = torch.from_numpy(grid.centres())[g[grid.prefix :]]
    found = {
        "entropy": reference.entropy(a, g),
        "entropy_ratio": reference.entropy_ratio(a, g, int(part.sum())),
        "confidence": reference.confidence(a, g),
        "distance_px": reference.distance(a, g, centres),
        "prefix_mass": reference.prefix_mass(a, g, p),
        "sink_mass": reference.sink_mass(a, taking_part),
    }
    for name, values in expected.items():
        assert found[name][0].tolist() == pytest.approx(values, rel=1e-12), name


def test_causal_and_grouped_queries_equal_torch() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 6, 9, 4), torch.randn(2, 3, 9, 4)
    a = reference.attention_matrix(q, k, scale=0.5, causal=True, dtype=torch.float32)
    v = torch.randn(2, 3, 9, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=0.5, enable_gqa=True
    )
    torch.testing.assert_close(a @ v.repeat_interleave(2, dim=1), expected)
    assert float(reference.output_error(a, v, expected).max()) < 1e-5


def test_rollout_fixed_point_needs_rows_that_sum_to_one() -> None:
    a = uniform(5)[0, 0]
    mixed = (a + torch.eye(5)) / 2
    product = torch.linalg.matrix_power(mixed, 4)
    expected = (1 - 2**-4) * a + 2**-4 * torch.eye(5)
    torch.testing.assert_close(product, expected)
    assert math.isclose(float(product.sum()), 5)
