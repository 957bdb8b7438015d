import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnviz.evaluation import summary as bootstrap


@given(st.floats(-1e6, 1e6), st.integers(1, 30))
def test_the_interval_of_a_constant_is_that_constant(value: float, pictures: int) -> None:
    ends = bootstrap.intervals(np.full((pictures, 1), value), resamples=50)
    assert ends.ravel().tolist() == [value, value]


def test_it_is_that_of_resampling_one_by_one() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    stream = np.random.default_rng(1)
    means = [stream.choice(values, size=40).mean() for _ in range(20_000)]
    found = bootstrap.intervals(values[:, None], resamples=20_000).ravel()
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), atol=0.01)


def test_it_holds_the_mean_of_a_normal_in_about_95_of_100_cases() -> None:
    stream = np.random.default_rng(0)
    values = stream.normal(size=(60, 400))  # 400 experiments of 60 pictures
    low, high = bootstrap.intervals(values)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.95, abs=0.04)


def test_the_seed_decides_and_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((20, 3))
    found = [bootstrap.intervals(values, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 777)
    np.testing.assert_allclose(bootstrap.intervals(values, seed=0), found[0])


def test_what_is_not_known_counts_in_no_mean() -> None:
    values = np.array([[0.2, 0.2, np.nan], [np.nan, 0.4, np.nan], [0.6, 0.6, np.nan]])
    low, high = bootstrap.intervals(values)
    assert (low[0], high[0]) == (0.2, 0.6)
    assert np.isnan([low[2], high[2]]).all()


def test_more_pictures_make_it_narrower() -> None:
    values = np.random.default_rng(0).random((900, 1))
    few, many = (np.ptp(bootstrap.intervals(values[:n])) for n in (9, 900))
    assert many < few / 4
