"""Tests of the schedule of restarts."""

import itertools

import pytest

from twinforce_service.process.restarts import Restarts


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def restarts(clock):
    return Restarts(clock)


def pauses(restarts, n_exits):
    found = []
    for _ in range(n_exits):
        restarts.note_exit("killed")
        found.append(restarts.pause)
    return found


def test_pauses_double_up_to_half_a_minute(restarts):
    found = pauses(restarts, 12)
    assert found[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert all(one <= other for one, other in itertools.pairwise(found))
    assert found[-3:] == [30.0] * 3


def test_a_process_that_was_stable_is_restarted_after_the_shortest_pause(restarts, clock):
    pauses(restarts, 8)
    restarts.note_ready()
    clock.now += 59
    assert pauses(restarts, 1)[0] > 1
    restarts.note_ready()
    clock.now += 60
    assert pauses(restarts, 1) == [0.1]


def test_a_process_that_keeps_exiting_is_given_up(restarts):
    pauses(restarts, 12)
    assert not restarts.is_exhausted
    pauses(restarts, 1)
    assert restarts.is_exhausted


def test_the_refusal_advises_to_retry_when_the_process_will_be_ready(restarts, clock):
    clock.now += 7  # duration of the first start
    restarts.note_ready()
    clock.now += 1000
    restarts.note_exit("killed by SIGKILL")
    refusal = restarts.refusal("cuda:1")
    assert refusal.retry_after == pytest.approx(0.1 + 7)
    assert str(refusal) == (
        "the engine on cuda:1 failed (killed by SIGKILL) and is being restarted"
    )
    clock.now += 6
    assert restarts.refusal("cuda:1").retry_after == pytest.approx(1.1)
    clock.now += 60
    assert restarts.refusal("cuda:1").retry_after > 0
