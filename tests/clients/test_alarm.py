"""An alarm rings when it is due, and not earlier if it was postponed."""

import sys
import threading
import time
from math import inf
from threading import Event
from types import SimpleNamespace

import pytest

from twinforce._transports.alarm import Alarm

PATIENCE = 60.0


class Clock:
    """A clock that only the test advances, and that counts how often it is read."""

    def __init__(self):
        self.now = 0.0
        self.n_reads = 0

    def monotonic(self):
        self.n_reads += 1
        return self.now

    def wait_for_a_read(self):
        n_reads, give_up_at = self.n_reads, time.monotonic() + PATIENCE
        while self.n_reads == n_reads:
            assert time.monotonic() < give_up_at
            time.sleep(0.001)


@pytest.fixture
def clock(monkeypatch):
    """The clock that alarms read."""
    clock = Clock()
    fake = SimpleNamespace(monotonic=clock.monotonic)
    monkeypatch.setattr(sys.modules[Alarm.__module__], "time", fake)
    return clock


def test_an_alarm_rings_once_and_records_it(clock):
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(0.02)
    clock.wait_for_a_read()
    assert not alarm.has_rung
    clock.now = 0.03
    assert rung.wait(PATIENCE)
    assert alarm.has_rung


def test_an_alarm_that_is_postponed_repeatedly_does_not_ring(clock):
    rung = Event()
    alarm = Alarm(rung.set)
    for time_ahead in range(3):
        alarm.set(clock.now + 0.02)
        clock.wait_for_a_read()
        alarm.set(clock.now + 0.04 + time_ahead)
        clock.now += 0.03
        clock.wait_for_a_read()  # the thread wakes at the earlier time
    alarm.set(inf)
    assert not alarm.has_rung
    alarm.set(clock.now)  # due at once
    assert rung.wait(PATIENCE)


def test_an_alarm_can_be_set_to_an_earlier_time():
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(time.monotonic() + 1000.0)
    alarm.set(time.monotonic() + 0.01)
    assert rung.wait(PATIENCE)


def test_a_stopped_alarm_does_not_ring_and_its_thread_ends(clock):
    before = set(threading.enumerate())
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(0.05)
    (thread,) = (each for each in set(threading.enumerate()) - before if each.name == "alarm")
    alarm.stop()
    clock.now = 1.0
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not rung.is_set()
    assert not alarm.has_rung
