"""Tests of walkers: their neighbor lists, and batches that wait for them."""

from threading import Event, Lock

import numpy as np

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.service.conftest import PATIENCE
from tests.systems import crystal
from twinforce import Client
from twinforce_models.prediction import predict
from twinforce_service.embedded import run_in_thread
from twinforce_service.engine.thread_engine import ThreadEngine
from twinforce_service.process import messages
from twinforce_service.process.request_messages import requests_from_message, requests_to_frames
from twinforce_service.scheduling.request import Limits, Request, Walker


def test_a_stream_reuses_its_neighbor_list_and_gets_the_same_predictions():
    model = loaded(Soft(), "soft")
    generator, system = np.random.default_rng(0), crystal(27)
    with (
        run_in_thread(free_ports(), lambda: {"soft": model}) as server,
        Client(server.grpc_url) as client,
        client.stream(model="soft") as stream,
    ):
        for _ in range(6):
            system = system.moved(system.positions + generator.normal(scale=0.02, size=(27, 3)))
            found = stream.predict(system)
            (expected,) = predict(Soft(), [system], {"energy", "conservative_forces"})
            np.testing.assert_allclose(found.energy, expected.energy)
            np.testing.assert_allclose(
                found.conservative_forces, expected.conservative_forces, atol=1e-12
            )
        client.predict(system, model="soft")
    assert model.lists.n_searches == 1
    assert len(model.lists) == 1


def test_a_walker_is_the_same_in_another_process():
    walkers = [Walker(), None, Walker()]
    requests = [
        Request("soft", crystal(2), frozenset({"energy"}), walker=walker) for walker in walkers
    ]
    frames = requests_to_frames(enumerate(requests))
    arrived = requests_from_message(messages.read([memoryview(frame) for frame in frames]))
    assert [request.walker for _, request in arrived] == walkers
    assert walkers[0] != walkers[2]


class Clock:
    """A clock that advances a little at each read, and otherwise only by `advance`."""

    def __init__(self):
        self._now = 0.0
        self._changing = Lock()

    def __call__(self):
        return self.advance(1e-6)

    def advance(self, seconds):
        with self._changing:
            self._now += seconds
            return self._now


class FakeWakeup:
    """A `Wakeup` with the time of the fake clock.

    A wait with a timeout advances the clock and ends immediately, unless `waits_for_notification`
    is set: then it ends only after a notification.
    """

    def __init__(self, clock):
        self._clock = clock
        self._notified = Event()
        self.waits_for_notification = False
        self.is_holding = Event()

    def notify(self):
        self._notified.set()

    def wait(self, seconds=None):
        if seconds is None:
            self._notified.wait()
        elif seconds > 0 and not self._notified.is_set():
            self.is_holding.set()
            if self.waits_for_notification:
                assert self._notified.wait(PATIENCE)
            else:
                self._clock.advance(seconds)
        self._notified.clear()


class FixedTime(Soft):
    """A potential that takes 20 ms on the fake clock for a batch of any size."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def forward_heads(self, batch, *, direct):
        self._clock.advance(0.02)
        return super().forward_heads(batch, direct=direct)


class EngineWithWalkers:
    """A thread engine with a fake clock, which has learned the delays of four walkers."""

    def __init__(self, max_hold):
        self.reports, self.clock = [], Clock()
        self.wakeup = FakeWakeup(self.clock)
        model = loaded(FixedTime(self.clock), "soft")
        self.engine = ThreadEngine(
            lambda: {"soft": model},
            Limits(max_hold=max_hold),
            on_batch=self.reports.append,
            clock=self.clock,
            wakeup=self.wakeup,
        )
        self.engine.start()
        self.engine.wait_until_ready(PATIENCE)
        self.walkers = [Walker() for _ in range(4)]
        for _ in range(10):
            self.step(None)
        for _ in range(10):
            self.step(*self.walkers)

    def submit(self, *walkers):
        requests = [
            Request("soft", crystal(2), frozenset({"energy"}), walker=each) for each in walkers
        ]
        self.engine.submit(requests)
        return requests

    def step(self, *walkers):
        """Submit requests of walkers together, one millisecond after their last answers."""
        self.clock.advance(0.001)
        for request in self.submit(*walkers):
            request.future.result(PATIENCE)


def test_an_engine_waits_for_walkers_but_not_with_a_single_one():
    setup = EngineWithWalkers(max_hold=10.0)
    assert not setup.wakeup.is_holding.is_set()
    setup.wakeup.waits_for_notification = True
    first, *others = setup.walkers
    requests = setup.submit(first)
    assert setup.wakeup.is_holding.wait(PATIENCE)
    for walker in others:
        requests += setup.submit(walker)
    for request in requests:
        request.future.result(PATIENCE)
    setup.clock.advance(1.0)  # no walker is expected any more
    lone = Walker()
    for _ in range(10):
        setup.step(lone)
    setup.engine.stop()
    *_, together = (report for report in setup.reports if report.n_systems == 4)
    assert together.held_s > 0
    assert setup.reports.index(together) == len(setup.reports) - 11
    assert all(report.held_s == 0.0 for report in setup.reports[-10:])


def test_an_engine_with_a_max_hold_of_zero_never_waits_for_walkers():
    setup = EngineWithWalkers(max_hold=0.0)
    for walker in setup.walkers:
        setup.submit(walker)[0].future.result(PATIENCE)
    setup.engine.stop()
    assert not setup.wakeup.is_holding.is_set()
    assert all(report.held_s == 0.0 for report in setup.reports)
