"""Tests of the signals that ask a command to stop."""

import os
import signal
import threading

import pytest

from twinforce.cli import signals
from twinforce.cli.signals import Interrupted, StopRequest, interruptible


def wait_after(number):
    os.kill(os.getpid(), number)
    threading.Event().wait(60)


def test_a_step_without_end_is_interrupted_after_a_while(monkeypatch):
    monkeypatch.setattr(signals, "_GRACE_S", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with pytest.raises(Interrupted, match="terminated"), stop.listening():
        wait_after(signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.usefixtures("hangups_count")
def test_other_commands_are_interrupted_at_once():
    with pytest.raises(Interrupted, match="hung up"), interruptible():
        wait_after(signal.SIGHUP)


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def listen():
        with interruptible(), StopRequest().listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [before]
