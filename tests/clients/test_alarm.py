"""An alarm rings when it is due, and not when it was put off."""

import time
from math import inf
from threading import Event

from twinforce._transports.alarm import Alarm


def test_it_rings_once_and_then_says_so():
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(time.monotonic() + 0.02)
    assert not alarm.has_rung
    assert rung.wait(10.0)
    assert alarm.has_rung


def test_what_is_put_off_again_and_again_does_not_ring():
    rung = Event()
    alarm = Alarm(rung.set)
    for _ in range(20):
        alarm.set(time.monotonic() + 0.2)
        time.sleep(0.02)
    alarm.set(inf)
    assert not rung.wait(0.4)
    alarm.set(time.monotonic() + 0.01)  # as soon as ever
    assert rung.wait(10.0)


def test_an_earlier_time_counts_at_once():
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(time.monotonic() + 1000.0)
    alarm.set(time.monotonic() + 0.01)
    assert rung.wait(10.0)


def test_it_can_be_stopped():
    rung = Event()
    alarm = Alarm(rung.set)
    alarm.set(time.monotonic() + 0.05)
    alarm.stop()
    assert not rung.wait(0.2)
    assert not alarm.has_rung
