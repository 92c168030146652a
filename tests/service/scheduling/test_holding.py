"""Tests of holding, with simulated devices and walkers: batches wait only if that pays."""

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated import Device, simulate
from tests.systems import molecule
from twinforce_service.scheduling.holding import Holding
from twinforce_service.scheduling.request import Limits, Request, Walker

# Devices on which the fixed cost of a batch dominates, as on a GPU, or the cost of its atoms.
STEEP, FLAT = Device(0.03, 1e-5), Device(0.001, 4e-5)
CONSERVATIVE, DIRECT = frozenset({"conservative_forces"}), frozenset({"direct_forces"})
MAX_HOLD = 0.05


def regular(delay):
    return lambda random: delay * (1 + 0.05 * abs(random.standard_normal()))


def uniform(delay):
    return lambda random: random.uniform(0, 2 * delay)


def exponential(delay):
    return lambda random: random.exponential(delay)


def two_paces(delay):
    return lambda random: delay if random.random() < 0.8 else 20 * delay


def heavy(delay):
    return lambda random: delay * (1 + random.pareto(1.5))


def compared(device, returns, seconds, n_atoms=192, seed=1):
    """Return the outcomes with holding and without it."""
    sizes = [n_atoms] * len(returns)
    return (simulate(device, returns, sizes, seconds, hold, seed) for hold in (MAX_HOLD, 0.0))


@pytest.mark.parametrize("device", [STEEP, FLAT])
@pytest.mark.parametrize("returning", [regular, uniform, exponential, two_paces, heavy])
@pytest.mark.parametrize("share", [0.1, 1.0, 10.0])
def test_a_lone_walker_never_waits(device, returning, share):
    outcome, _ = compared(
        device, [returning(share * device.fixed)], 1000 * (1 + 2 * share) * device.fixed
    )
    assert outcome.held == 0.0


@pytest.mark.parametrize(("n_walkers", "gain"), [(2, 1.4), (3, 1.4), (16, 1.25), (32, 1.15)])
def test_walkers_that_split_into_two_batches_are_merged_into_one(n_walkers, gain):
    held, at_once = compared(STEEP, [regular(0.1 * STEEP.fixed)] * n_walkers, 6.0)
    assert held.throughput > gain * at_once.throughput
    assert held.latency < at_once.latency
    assert held.n_answers / held.n_batches > 0.8 * n_walkers
    assert at_once.n_answers / at_once.n_batches < 0.6 * max(n_walkers, 2)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_walkers_are_merged_if_their_delays_are_shorter_than_a_batch_saves(share):
    held, at_once = compared(STEEP, [uniform(0.5 * share * STEEP.fixed)] * 8, 6.0)
    assert held.throughput > 1.1 * at_once.throughput


@pytest.mark.parametrize("share", [1.2, 3.0, 30.0])
def test_no_batch_waits_for_walkers_with_long_delays(share):
    outcome, _ = compared(STEEP, [regular(share * STEEP.fixed)] * 8, 6.0)
    assert outcome.held <= 0.001 * outcome.seconds


ERRATIC = [uniform, exponential, two_paces, heavy]


@pytest.mark.parametrize("device", [STEEP, FLAT])
@pytest.mark.parametrize("returning", ERRATIC)
@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_holding_costs_walkers_with_irregular_delays_nothing(device, returning, share):
    held, at_once = compared(device, [returning(share * device.fixed)] * 6, 400 * device.fixed)
    assert held.throughput > 0.98 * at_once.throughput


def test_some_irregular_walkers_do_not_keep_the_others_from_gaining():
    walkers = [regular(0.1 * STEEP.fixed)] * 8 + [exponential(3 * STEEP.fixed)] * 4
    held, at_once = compared(STEEP, walkers, 8.0)
    assert held.throughput > 1.2 * at_once.throughput


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([regular, *ERRATIC]), st.floats(0.01, 4.0)),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.0, 1e-4),
)
def test_no_batch_waits_longer_than_a_batch_costs_or_the_limit_allows(walkers, per_atom):
    device = Device(0.02, per_atom)
    returns = [returning(share * device.fixed) for returning, share in walkers]
    outcome = simulate(device, returns, [50] * len(walkers), 4.0, MAX_HOLD)
    assert outcome.longest_hold <= min(MAX_HOLD, device.fixed + 50 * per_atom)


def test_a_limit_of_zero_turns_holding_off():
    _, at_once = compared(STEEP, [regular(0.1 * STEEP.fixed)] * 4, 3.0)
    assert at_once.held == 0.0


def request(walker, outputs=CONSERVATIVE, **values):
    return Request("model", molecule(10), outputs, walker=walker, **values)


def holding_that_knows(*walkers, delay=0.002, **limits):
    """Return a `Holding` that has seen these walkers return after `delay` s, and the time."""
    holding = Holding(Limits(max_hold=MAX_HOLD, **limits))
    now = 0.0
    for size in [1, *[len(walkers)] * 20]:
        batch = [request(walker) for walker in walkers[:size]]
        holding.note_requests(batch, now + delay)
        holding.note_batch(batch, 0.03 + 1e-5 * 10 * size, now := now + 0.05)
    return holding, now


def test_the_hold_ends_when_the_walker_is_due():
    one, other = Walker(), Walker()
    holding, now = holding_that_knows(one, other)
    back = request(one)
    holding.note_requests([back], now + 0.001)
    hold = holding.hold([back], now + 0.001)
    assert hold is not None
    assert hold.awaited == {other.id}
    assert hold.until == pytest.approx(now + 0.002)
    holding.note_requests([request(other)], now + 0.003)
    assert not hold.awaited


def test_no_batch_waits_for_an_overdue_walker():
    one, other = Walker(), Walker()
    holding, now = holding_that_knows(one, other)
    assert holding.hold([request(one)], now + 10.0) is None


def test_no_batch_waits_for_a_walker_with_other_outputs():
    one, other = Walker(), Walker()
    holding, now = holding_that_knows(one, other)
    assert holding.hold([request(one, DIRECT)], now) is None


def test_a_batch_does_not_wait_if_it_would_miss_a_deadline():
    one, other = Walker(), Walker()
    holding, now = holding_that_knows(one, other)
    back = request(one, deadline=now + 0.03)
    holding.note_requests([back], now)
    assert holding.hold([back], now) is None


def test_no_batch_waits_for_a_walker_that_would_not_fit():
    one, other = Walker(), Walker()
    holding, now = holding_that_knows(one, other, max_batch_atoms=19)
    back = request(one)
    holding.note_requests([back], now)
    assert holding.hold([back], now) is None


def test_a_request_without_a_walker_does_not_wait_for_walkers():
    holding, now = holding_that_knows(*(Walker() for _ in range(2)))
    single = Request("model", molecule(10), CONSERVATIVE)
    alone = holding.hold([single], now)
    assert alone is None or alone.until - now < 0.03  # what a batch costs


def test_walkers_that_have_ended_are_forgotten_within_minutes():
    lasting = Walker()
    holding, now = holding_that_knows(lasting)
    for _ in range(200):
        holding.note_batch([request(Walker())], 0.01, now)
        now += 5.0
        holding.note_requests([request(lasting)], now)
        holding.note_batch([request(lasting)], 0.01, now)
    assert 1 < holding.n_walkers < 80  # one every 5 s, for five minutes


def test_a_walker_that_has_ended_is_not_kept_alive():
    ended = Walker()
    holding, now = holding_that_knows(ended)
    holding.note_batch([request(ended)], 0.01, now)
    alive = weakref.ref(ended)
    del ended
    gc.collect()
    assert alive() is None
