"""Tests of the turns of processes that share a device, each with a clock that the test sets."""

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.waiting import wait_until
from twinforce_service.process.turns import DeviceTurns

PROGRAM = """
import sys
from twinforce_service.process.turns import SharedDevice

now = pace = 0.0

def clock():
    global now
    now += pace
    return now

device = SharedDevice(int(sys.argv[1]), int(sys.argv[2]), clock)
for line in sys.stdin:
    what, _, seconds = line.strip().partition(" ")
    if what == "pace":
        pace = float(seconds)
        continue
    now += float(seconds or 0)
    print(device.begin() if what == "begin" else device.end(), flush=True)
"""


class Taker:
    """A process that takes turns."""

    def __init__(self, turns, index):
        command = [sys.executable, "-c", PROGRAM, str(turns.descriptor), str(index)]
        self.index, self.turns = index, turns
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[turns.descriptor],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hears(self):
        """Wait for the end of the last command, and return what it returned."""
        return self.process.stdout.readline().strip()

    def begin(self):
        self.say("begin")
        return self.hears()

    def end(self, seconds):
        self.say(f"end {seconds}")
        self.hears()

    def wait_in_line(self):
        """Ask for the device while another process uses it."""
        self.say("begin")
        wait_until(lambda: self.turns.is_waiting(self.index))


@pytest.fixture
def turns():
    return DeviceTurns(3)


@pytest.fixture
def takers(turns):
    with ExitStack() as stack:
        found = [Taker(turns, index) for index in range(turns.n_engines)]
        for each in found:
            stack.enter_context(each.process)
            stack.callback(each.process.kill)
        yield found


def test_a_free_device_is_taken_at_once(takers):
    one, other, _ = takers
    assert one.begin() == "False"
    assert one.begin() == "False"  # it is still its turn
    one.end(1.0)
    assert other.begin() == "False"


def test_the_process_that_has_had_less_time_goes_first(turns, takers):
    long, short, last = takers
    long.begin()
    short.wait_in_line()
    last.wait_in_line()
    long.end(5.0)
    assert short.hears() == "True"
    long.wait_in_line()
    short.end(1.0)
    assert last.hears() == "True"
    short.wait_in_line()
    last.end(2.0)  # they have had 5, 1 and 2 seconds, and long has waited longest
    assert short.hears() == "True"
    last.wait_in_line()
    short.end(3.0)
    assert last.hears() == "True"
    short.wait_in_line()
    last.end(3.0)
    assert short.hears() == "True"
    assert turns.is_waiting(long.index)
    short.end(1.0)
    assert long.hears() == "True"


def test_idle_time_is_no_claim_to_the_future(turns, takers):
    busy, idle, third = takers
    for _ in range(10):
        busy.begin()
        busy.end(1.0)
    third.begin()
    busy.wait_in_line()
    idle.wait_in_line()
    third.end(0.0)
    assert idle.hears() == "True"
    third.wait_in_line()
    idle.end(3.0)
    assert third.hears() == "True"
    idle.wait_in_line()
    third.end(0.0)  # idle has had 3 seconds in all, and busy 10
    assert busy.hears() == "True"
    assert turns.is_waiting(idle.index)


def test_a_process_that_dies_on_the_device_leaves_it_free(takers):
    one, other, _ = takers
    one.begin()
    other.wait_in_line()
    one.process.kill()
    assert other.hears() == "True"


def test_a_process_that_dies_in_line_is_forgotten(turns, takers):
    one, other, third = takers
    one.begin()
    other.wait_in_line()
    third.wait_in_line()
    other.process.kill()
    other.process.wait()
    turns.forget(other.index)
    one.end(1.0)
    assert third.hears() == "True"


def test_a_device_that_is_never_left_is_used_all_the_same(turns, takers):
    stuck, other, _ = takers
    stuck.begin()
    other.say("pace 6")  # seconds that pass whenever it looks at its clock
    assert other.begin() == "True"
    assert not turns.is_waiting(other.index)
    other.end(1.0)
    assert other.begin() == "True"
