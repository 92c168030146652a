"""Programs for `test_interrupts`: python -m tests.clients.interrupting NAME URL."""

import faulthandler
import itertools
import random
import signal
import sys
import threading

import numpy as np

from twinforce import Client, System

ARGON = 18
N_STORMS, N_STRIKES = 100, 3


class Stop(BaseException):
    """An exception that a signal handler raises."""


class TimesUpError(Exception):
    """One that code below might take for an error of its own."""


def pair(distance):
    return System([ARGON, ARGON], [[0.0, 0.0, 0.0], [0.0, 0.0, distance]])


class Storm:
    """Signals at random times of which each handler raises; the seed is fixed."""

    def __init__(self, url):
        self._random = random.Random(7)
        with Client(url) as client:
            self._energies = {
                distance: client.predict(pair(distance), "energy").energy
                for distance in np.linspace(3.5, 4.5, 7)
            }
        self._distances = itertools.cycle(self._energies)
        self._kinds = itertools.cycle([Stop, TimesUpError, KeyboardInterrupt])
        signal.signal(signal.SIGALRM, self._strike)

    def check(self, predict):
        """Check what a function says of the next pair."""
        distance = next(self._distances)
        np.testing.assert_allclose(
            predict(pair(distance)).energy, self._energies[distance], rtol=1e-10
        )

    def rage(self, call):
        """Interrupt a call at a random time, and twice more while it is left or made again."""
        for _ in range(N_STORMS):
            self._n_left = N_STRIKES
            self._endure(call, N_STRIKES)
            assert self._n_left == 0

    def _endure(self, call, depth):
        """Call until all signals came; each level catches one, wherever it strikes.

        The code that is interrupted may report something else, but no wrong number, and nothing
        unless it was interrupted.
        """
        n_left = self._n_left
        try:
            if depth:
                self._endure(call, depth - 1)
            else:  # only here, where the first signal is caught even if it comes at once
                signal.setitimer(signal.ITIMER_REAL, self._random.uniform(1e-4, 8e-3))
            while self._n_left:
                n_left = self._n_left
                call()
        except BaseException as error:
            if isinstance(error, AssertionError) or self._n_left == n_left:
                raise

    def _strike(self, *_):
        self._n_left -= 1
        if self._n_left:
            signal.setitimer(signal.ITIMER_REAL, self._random.uniform(1e-4, 2e-3))
        raise next(self._kinds)


def a_stream(url):
    storm, client = Storm(url), Client(url)
    stream = client.stream()
    with client.stream() as other:  # of another thread, which no signal disturbs

        def go_on():
            for _ in range(200):
                storm.check(other.predict)

        storm.rage(lambda: storm.check(stream.predict))
        thread = threading.Thread(target=go_on)
        thread.start()
        storm.check(stream.predict)
        thread.join()
    end(storm, client)


def a_client(url):
    storm, client = Storm(url), Client(url)
    storm.rage(lambda: storm.check(client.predict))
    end(storm, client)


def a_run(url):
    storm, client = Storm(url), Client(url)
    expected = [each.energy for each in client.relax(pair(3.6), interval=1, fmax=1e-3)]

    def run():
        energies = [each.energy for each in client.relax(pair(3.6), interval=1, fmax=1e-3)]
        np.testing.assert_allclose(energies, expected, rtol=1e-10)

    storm.rage(run)
    run()
    end(storm, client)


def opening_and_closing(url):
    storm = Storm(url)

    def use():
        with Client(url) as client, client.stream() as stream:
            storm.check(client.predict)
            storm.check(stream.predict)

    storm.rage(use)
    use()
    end(storm, Client(url))


def end(storm, client):
    """Check that a client serves all threads, and leave all open."""
    stream = client.stream()
    for _ in range(10):
        storm.check(client.predict)
        storm.check(stream.predict)
    thread = threading.Thread(target=storm.check, args=(client.predict,), daemon=True)
    thread.start()
    thread.join(60.0)
    assert not thread.is_alive()
    sys.stdout.write("went on\n")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(250.0, exit=True)
    globals()[sys.argv[1]](sys.argv[2])
