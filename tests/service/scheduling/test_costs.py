"""Tests of the cost curve: few batches suffice for the fit, and outliers do not spoil it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinforce_service.scheduling.costs import CostCurve

SIZES = (1, 15, 16, 4, 12, 8, 3, 13)


def learned(curve, a, b, c, n_batches, noise=0.0, density=lambda _: 50, seed=0):
    random = np.random.default_rng(seed)
    for i in range(n_batches):
        atoms = 192 * SIZES[i % len(SIZES)]
        pairs = int(atoms * density(random))
        seconds = a + b * atoms + c * pairs
        curve.note(atoms, pairs, seconds * (1 + noise * random.standard_normal()))
    return curve


coefficient = st.floats(1e-6, 1e-2)


@given(a=st.floats(1e-4, 0.1), b=coefficient, c=coefficient)
def test_the_fit_recovers_any_curve(a, b, c):
    def mixed(random):
        return random.uniform(10, 90)

    curve = learned(CostCurve(), a, b, c / 50, 200, density=mixed)
    for n_atoms, n_pairs in ((192, 4000), (3000, 150_000)):
        exact = a + b * n_atoms + c / 50 * n_pairs
        assert curve.seconds(n_atoms, n_pairs) == pytest.approx(exact, rel=0.02)


def test_the_fit_recovers_the_fixed_cost_from_noisy_times():
    curve = learned(CostCurve(), 0.03, 1e-5, 1e-7, 100, noise=0.05)
    assert curve.fixed == pytest.approx(0.03, rel=0.1)


def test_the_fit_finds_no_fixed_cost_if_there_is_none():
    curve = learned(CostCurve(), 0.0, 4e-5, 0.0, 100, noise=0.05)
    assert curve.fixed < 0.1 * curve.seconds(192, 9600)


def test_one_batch_that_takes_a_hundred_times_longer_changes_little():
    curve = learned(CostCurve(), 0.03, 1e-5, 1e-7, 100, noise=0.02)
    before = curve.seconds(1000, 50_000)
    curve.note(1000, 50_000, 100 * before)
    assert curve.seconds(1000, 50_000) == pytest.approx(before, rel=0.2)


def test_the_fit_follows_a_model_that_becomes_faster():
    curve = learned(CostCurve(), 0.03, 4e-5, 0.0, 100, noise=0.02)
    learned(curve, 0.01, 1e-5, 0.0, 150, noise=0.02, seed=1)
    assert curve.seconds(192, 9600) == pytest.approx(0.012, rel=0.15)


def test_a_thousand_batches_of_one_size_do_not_erase_the_fixed_cost():
    curve = learned(CostCurve(), 0.03, 1e-5, 0.0, 50, noise=0.02)
    for seconds in 0.06 * (1 + 0.02 * np.random.default_rng(2).standard_normal(1000)):
        curve.note(3000, 150_000, seconds)
    assert curve.seconds(3000, 150_000) == pytest.approx(0.06, rel=0.02)
    assert curve.fixed == pytest.approx(0.03, rel=0.15)


def test_all_time_counts_as_fixed_cost_while_all_batches_are_alike():
    curve = CostCurve()
    assert curve.fixed == 0.0
    for _ in range(50):
        curve.note(192, 9600, 0.02)
    assert curve.fixed == 0.02
    curve.note(384, 19_200, 0.04)
    assert curve.fixed < 0.01


@given(
    st.lists(
        st.tuples(
            st.integers(1, 100_000), st.integers(0, 10_000_000), st.floats(1e-6, 1e3)
        ),
        max_size=60,
    )
)  # fmt: skip
def test_costs_are_finite_and_never_negative_for_any_measurements(batches):
    curve = CostCurve()
    for batch in batches:
        curve.note(*batch)
    for size in ((1, 0), (192, 10_000), (20_000, 2_000_000)):
        assert 0.0 <= curve.seconds(*size) < np.inf
    assert 0.0 <= curve.fixed < np.inf
