"""Tests of memory budgets, which are measured at start and lowered when memory runs out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.systems import molecule
from twinforce_proto import SystemTooLargeError
from twinforce_service.scheduling.batch_queue import BatchQueue
from twinforce_service.scheduling.budgets import Budget, Budgets, fit_budget
from twinforce_service.scheduling.request import Limits, Request

DIRECT, CONSERVATIVE = frozenset({"direct_forces"}), frozenset({"conservative_forces"})
SIZES = ((512, 9_000), (512, 30_000), (4096, 72_000), (4096, 240_000), (8000, 250_000))


def request(n_atoms, outputs=CONSERVATIVE, n_pairs=0, **values):
    return Request("model", molecule(n_atoms), outputs, n_pairs=n_pairs, **values)


@given(
    fixed=st.floats(0, 1e8), per_atom=st.floats(1e3, 1e6), per_pair=st.floats(1e2, 1e5),
)  # fmt: skip
def test_the_fit_recovers_the_measured_memory_with_headroom(fixed, per_atom, per_pair):
    def taken(n_atoms, n_pairs):
        return fixed + per_atom * n_atoms + per_pair * n_pairs

    n_free = 10 * taken(20_000, 2_000_000)
    samples = [(*size, int(taken(*size))) for size in SIZES]
    budget = fit_budget(samples, int(n_free))
    assert budget.batch == pytest.approx(0.8 * (n_free - fixed), rel=1e-3)
    n_atoms = budget.batch / budget.load(1, 50)
    assert taken(n_atoms, 50 * n_atoms) == pytest.approx(0.8 * n_free, rel=0.03)


@given(st.lists(st.integers(1, 2**34), min_size=5, max_size=5), st.integers(0, 2**37))
def test_the_fit_never_predicts_less_memory_than_was_measured(n_bytes, n_free):
    samples = [(*size, each) for size, each in zip(SIZES, n_bytes, strict=True)]
    budget = fit_budget(samples, n_free)
    if budget is not None:
        for n_atoms, n_pairs, taken in samples:
            if budget.load(n_atoms, n_pairs) < budget.alone:
                assert taken <= n_free * (1 + 1e-9)


def test_there_is_no_budget_for_too_few_samples():
    assert fit_budget([(512, 9_000, 10**7)] * 2, 10**10) is None


def test_a_batch_holds_as_many_requests_as_fit_into_memory():
    budgets = Budgets(Limits())
    budgets.set("model", Budget(1.0, 0.1, 20.0, 25.0), with_autograd=True)
    queue = BatchQueue(Limits(), budgets)
    queue.extend([request(5, n_pairs=50) for _ in range(4)], 0.0)
    assert [len(queue.next_batch(0.0).batch) for _ in range(2)] == [2, 2]
    queue.extend([request(5, DIRECT, n_pairs=50) for _ in range(4)], 0.0)
    assert len(queue.next_batch(0.0).batch) == 4


def test_the_refusal_of_a_system_that_cannot_fit_names_the_size_that_would():
    budgets = Budgets(Limits())
    budgets.set("model", Budget(1.0, 0.1, 20.0, 25.0), with_autograd=True)
    budgets.check([request(10, n_pairs=100)])
    bad = request(20, n_pairs=200, system_index=3)
    text = r"systems\[3\]: positions: .* about 12 atoms as dense as these .* got 20"
    with pytest.raises(SystemTooLargeError, match=text):
        budgets.check([request(1), bad])
    budgets.check([request(20, DIRECT, n_pairs=200)])


def test_batches_get_smaller_when_memory_runs_out():
    budgets = Budgets(Limits())
    batch = [request(10, n_pairs=100) for _ in range(10)]
    assert budgets.fits(batch[0], 100, 1000)
    budgets.note_out_of_memory(batch)
    assert budgets.fits(batch[0], 80, 800)
    assert not budgets.fits(batch[0], 81, 810)
    budgets.note_out_of_memory(batch[:5])
    assert not budgets.fits(batch[0], 41, 410)
    budgets.check([request(60, n_pairs=600)])  # this size has not failed yet
    budgets.note_out_of_memory([request(60, n_pairs=600)])
    with pytest.raises(SystemTooLargeError, match="less than about 60 atoms"):
        budgets.check([request(60, n_pairs=600)])
    budgets.check([request(59, n_pairs=590)])
