"""Tests of means and their errors on series with closed-form answers."""

import math

import numpy as np
import pytest

from twinforce.assess.analysis.statistics import (
    block_average,
    in_blocks,
    mean_of_independent,
    median_ratio,
)


def autoregressive(n, memory, seed):
    """Return x_t = φ x_{t-1} + ξ, of variance 1/(1 - φ²) and mean 0, with φ -> memory."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(n)
    values = np.empty(n)
    values[0] = noise[0] / math.sqrt(1 - memory**2)
    for t in range(1, n):
        values[t] = memory * values[t - 1] + noise[t]
    return values


def exact_error(n, memory):
    """Return the standard error of the mean of a long `autoregressive` series."""
    return 1.0 / ((1.0 - memory) * math.sqrt(n))


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.98])
def test_the_error_of_a_correlated_mean_agrees_with_theory(memory):
    n = 2**15
    found = [block_average(autoregressive(n, memory, seed)) for seed in range(8)]
    assert all(each.is_reliable for each in found)
    ratio = np.mean([each.error for each in found]) / exact_error(n, memory)
    assert ratio == pytest.approx(1.0, abs=0.12)
    scores = [each.value / each.error for each in found]
    assert np.sqrt(np.mean(np.square(scores))) < 2.0


def test_the_naive_error_is_far_too_small():
    series = autoregressive(2**15, 0.98, 0)
    naive = series.std() / math.sqrt(len(series))
    assert block_average(series).error > 5 * naive


def test_every_independent_value_counts():
    found = block_average(np.random.default_rng(0).standard_normal(4096))
    assert found.n_independent == pytest.approx(4096, rel=0.25)


def test_a_series_shorter_than_its_correlation_time_is_unreliable():
    short = autoregressive(64, 0.98, 1)
    assert not block_average(short).is_reliable
    assert not block_average([1.0, 2.0]).is_reliable
    assert math.isnan(block_average([1.0, 2.0]).value)
    assert math.isnan(block_average([1.0, np.nan, 2.0, 3.0, 4.0]).value)


def test_a_constant_has_no_error():
    found = block_average(np.full(100, 3.0))
    assert (found.value, found.error, found.is_reliable) == (3.0, 0.0, True)


def test_blocks_drop_a_remainder_at_the_start():
    np.testing.assert_array_equal(in_blocks(np.arange(7.0), 2), [1.5, 3.5, 5.5])


def test_few_independent_values_are_unreliable():
    assert mean_of_independent([]).n_independent == 0
    assert math.isnan(mean_of_independent([1.0]).error)
    found = mean_of_independent([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.error == pytest.approx(math.sqrt(5 / 12))
    assert found.is_reliable


def test_ratios_within_rounds_are_independent_of_the_speed_of_a_round():
    rng = np.random.default_rng(0)
    slowness = rng.uniform(1.0, 4.0, 200)
    noise = rng.normal(1.0, 0.02, 200)
    found = median_ratio((2.5 * slowness * noise).tolist(), slowness.tolist())
    assert found.value == pytest.approx(2.5, abs=3 * found.error)
    assert found.error < 0.01
