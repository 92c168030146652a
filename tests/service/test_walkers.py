"""What the service keeps of a walker from step to step."""

import numpy as np

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.systems import crystal
from twinforce import Client
from twinforce_models.potential import predict
from twinforce_service import wire
from twinforce_service.batching import Request, Walker
from twinforce_service.main import run_in_thread


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
    frames = wire.requests_to_frames(enumerate(requests))
    arrived = wire.requests_from_message(wire.read([memoryview(frame) for frame in frames]))
    assert [request.walker for _, request in arrived] == walkers
    assert walkers[0] != walkers[2]
