"""Tests that a full queue is full for those only who filled it."""

from collections import Counter
from dataclasses import dataclass
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.scheduling.test_fairness import request
from twinforce_proto import OverloadedError
from twinforce_service.callers.caller import Caller
from twinforce_service.scheduling.batch_queue import BatchQueue
from twinforce_service.scheduling.places import QueuePlaces, has_room
from twinforce_service.scheduling.request import Limits

LIMITS = Limits(max_waiting=60, max_waiting_atoms=6000)


@dataclass(eq=False)
class Held:
    """A request that waits."""

    caller: Caller
    n_atoms: int = 1


class Waiting:
    """The requests that wait, of which the places are counted."""

    def __init__(self):
        self.places, self.requests = QueuePlaces(), []

    def offer(self, caller, n_requests=1, n_atoms=1):
        """Let a call enter if it may; return whether it did."""
        call = [Held(caller, n_atoms) for _ in range(n_requests)]
        total = sum(each.n_atoms for each in self.requests)
        if not self.places.may_enter(call, len(self.requests), total, LIMITS):
            return False
        for each in call:
            self.places.enter(each)
        self.requests += call
        return True

    def drain(self, n_requests):
        """Let the requests leave that came first."""
        gone, self.requests = self.requests[:n_requests], self.requests[n_requests:]
        for each in gone:
            self.places.leave(each)

    def fill(self, caller, n_requests=1):
        """Let calls enter until one is refused; return the number of requests."""
        n_before = len(self.requests)
        while self.offer(caller, n_requests):
            pass
        return len(self.requests) - n_before


def test_one_caller_may_fill_the_queue_and_no_more():
    assert Waiting().fill(Caller("eve")) == 60


def test_callers_that_come_later_still_get_their_shares_of_a_full_queue():
    waiting = Waiting()
    assert [waiting.fill(Caller(name)) for name in "abcd"] == [60, 30, 20, 15]


def test_a_share_is_that_of_the_key():
    waiting = Waiting()
    assert waiting.fill(Caller("a", share=1.0)) == 60
    assert waiting.fill(Caller("b", share=3.0)) == 45
    assert waiting.fill(Caller("c", share=2.0)) == 20


def test_shares_are_of_atoms_too_but_a_first_request_of_any_size_may_wait():
    waiting = Waiting()
    assert waiting.offer(Caller("a"), 6, 1000)
    assert not waiting.offer(Caller("b"), 2, 2000)
    assert waiting.offer(Caller("b"), 2, 1000)
    assert not waiting.offer(Caller("b"), 1, 1001)
    assert waiting.offer(Caller("c"), 1, 5000)
    assert not waiting.offer(Caller("c"), 1, 1)


def test_places_that_are_left_are_forgotten():
    waiting = Waiting()
    for name in "abc":
        waiting.fill(Caller(name))
    waiting.drain(10**6)
    assert len(waiting.places) == 0
    assert waiting.fill(Caller("d")) == 60


CALLS = st.tuples(
    st.integers(0, 5), st.integers(1, 40), st.integers(1, 300), st.integers(0, 40)
)  # caller, requests, atoms of each, requests that leave afterwards


@given(st.lists(CALLS, max_size=80), st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=6))
def test_nobody_below_its_share_is_refused_and_the_queue_stays_bounded(calls, shares):
    callers = [Caller(str(number), share) for number, share in enumerate(shares[:6])]
    waiting = Waiting()
    for number, n_requests, n_atoms, n_leaving in calls:
        caller = callers[number]
        held = [each for each in waiting.requests if each.caller is caller]
        total = sum(
            {c.name: c.share for c in [caller, *(r.caller for r in waiting.requests)]}.values()
        )
        part = caller.share / total
        is_below = (
            len(held) + n_requests <= part * 60
            and sum(each.n_atoms for each in held) + n_requests * n_atoms <= part * 6000
        )
        n_atoms_waiting = sum(each.n_atoms for each in waiting.requests)
        call = [Held(caller, n_atoms)] * n_requests
        expected = (
            is_below
            or has_room(call, len(waiting.requests), n_atoms_waiting, LIMITS)
            or (not held and n_requests == 1)
        )
        is_full = bool(waiting.requests) and (
            len(waiting.requests) + n_requests > 4 * 60
            or n_atoms_waiting + n_requests * n_atoms > 4 * 6000
        )
        assert waiting.offer(caller, n_requests, n_atoms) is (expected and not is_full)
        assert len(waiting.requests) <= 240
        assert sum(each.n_atoms for each in waiting.requests) <= max(24_000, n_requests * n_atoms)
        waiting.drain(n_leaving)
    waiting.drain(10**6)
    assert len(waiting.places) == 0


@pytest.mark.parametrize(("n_atoms", "n_expected"), [(1, 240), (1000, 24), (2000, 12)])
def test_a_queue_is_bounded_for_any_number_of_callers(n_atoms, n_expected):
    waiting = Waiting()
    for number in range(1000):
        waiting.offer(Caller(f"2001:db8:0:{number:x}::/64"), n_atoms=n_atoms)
    assert len(waiting.requests) == n_expected
    waiting.drain(200)
    assert waiting.offer(Caller("newcomer"))


def test_shares_of_any_size_are_compared():
    tiny, usual = Caller("tiny", share=1e-20), Caller("usual")
    waiting = Waiting()
    waiting.offer(usual)
    assert waiting.fill(tiny) == 59
    waiting.drain(1)
    assert not waiting.offer(tiny, n_requests=2)
    assert waiting.offer(usual, n_requests=2)


def simulated(n_greedy, may_enter):
    """Let greedy callers refill a queue of which 5 leave per turn, beside a polite one.

    The polite one sends a request when the last was answered. Return how often it was refused, and
    the size of the queue in each turn.
    """
    waiting = Waiting()
    if not may_enter:
        waiting.places.may_enter = has_room
    greedy = [Caller(f"greedy-{number}") for number in range(n_greedy)]
    polite, refused, sizes = Caller("polite"), 0, []
    for turn in range(400):
        for number in range(n_greedy):
            waiting.fill(greedy[(turn + number) % n_greedy], 1 + number % 3)
        if not any(each.caller is polite for each in waiting.requests):
            refused += not waiting.offer(polite)
        sizes.append(len(waiting.requests))
        waiting.drain(5)
    return refused, sizes


@pytest.mark.parametrize("n_greedy", [1, 3, 12])
def test_a_polite_caller_always_gets_in_however_many_greedy_ones_refill_the_queue(n_greedy):
    refused, sizes = simulated(n_greedy, may_enter=True)
    assert refused == 0
    assert max(sizes) <= 60 * (1 + log(n_greedy + 1)) + 1
    assert max(sizes[200:]) <= 60 + n_greedy + 1  # where nobody is above its share any more
    without, _ = simulated(n_greedy, may_enter=False)
    assert without > 300


def test_a_queue_admits_a_newcomer_when_it_is_full_and_refuses_the_one_who_filled_it():
    queue = BatchQueue(Limits(max_waiting=10))
    eve, ada = Caller("eve"), Caller("ada")
    queue.extend([request(eve) for _ in range(10)], 0.0)
    queue.extend([request(ada) for _ in range(5)], 0.0)
    for caller in (eve, ada):
        with pytest.raises(OverloadedError, match="15 systems of 15 atoms are already waiting"):
            queue.extend([request(caller)], 0.0)
    found = Counter(each.caller.name for each in queue.next_batch(0.0).batch)
    assert found == {"eve": 10, "ada": 5}
    queue.extend([request(eve) for _ in range(10)], 0.0)


def test_requests_that_were_canceled_make_room():
    queue = BatchQueue(Limits(max_waiting=4))
    gone = [request(Caller("eve")) for _ in range(4)]
    queue.extend(gone, 0.0)
    for each in gone:
        each.future.cancel()
    queue.extend([request(Caller("eve")) for _ in range(4)], 0.0)
    queue.extend([request(Caller("ada")) for _ in range(2)], 0.0)
    assert len(queue.clear()) == 6
