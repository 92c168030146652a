"""What the service keeps of a walker from step to step."""

import time
from threading import Thread

import numpy as np

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.systems import crystal
from twinforce import Client
from twinforce_models.prediction import predict
from twinforce_service.embedded import run_in_thread
from twinforce_service.engine.thread_engine import ThreadEngine
from twinforce_service.process import messages
from twinforce_service.scheduling.request import Limits, Request, Walker


def test_a_stream_keeps_its_neighbor_list_and_gets_the_same_predictions():
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
    frames = messages.requests_to_frames(enumerate(requests))
    arrived = messages.requests_from_message(messages.read([memoryview(frame) for frame in frames]))
    assert [request.walker for _, request in arrived] == walkers
    assert walkers[0] != walkers[2]


class Steep(Soft):
    """Takes as long for one system as for many; remembers who was evaluated together."""

    def forward_heads(self, batch, *, direct):
        time.sleep(0.02)
        return super().forward_heads(batch, direct=direct)


def half_batches(max_hold):
    """Let four walkers run in a thread engine; return reports of its batches."""
    reports = []
    limits = Limits(max_hold=max_hold)
    model = loaded(Steep(), "soft")
    engine = ThreadEngine(lambda: {"soft": model}, limits, on_batch=reports.append)
    engine.start()
    engine.wait_until_ready(20.0)

    def walk(walker, n_steps):
        for _ in range(n_steps):
            request = Request("soft", crystal(2), frozenset({"energy"}), walker=walker)
            engine.submit([request])
            request.future.result(20.0)

    threads = [Thread(target=walk, args=[Walker(), 25]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    walk(Walker(), 10)
    engine.stop()
    return reports


def test_walkers_come_together_in_an_engine_and_a_lone_one_does_not_wait():
    reports = half_batches(max_hold=10.0)
    assert sum(report.n_systems for report in reports) == 110
    assert any(report.n_systems == 4 and report.held_s > 0 for report in reports)
    assert all(report.held_s < 5.0 for report in reports)
    assert [report.held_s for report in reports[-6:]] == [0.0] * 6


def test_an_engine_that_is_told_so_never_waits_for_walkers():
    assert all(report.held_s == 0.0 for report in half_batches(max_hold=0.0))
