"""Tests that predictions on a GPU are close to those on a CPU."""

import itertools

import numpy as np
import pytest
import torch

from tests.conftest import free_ports
from tests.models.tables.test_tables import water64
from twinforce import Client, Integrator, Start
from twinforce_models import registry
from twinforce_models.nonconservativity import direct_jacobian, nonconservativity
from twinforce_models.prediction import predict
from twinforce_proto import OUTPUTS, System
from twinforce_service.embedded import run_in_thread

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
EVERYTHING = frozenset(OUTPUTS)


@pytest.fixture(scope="module", params=["process", "thread"])
def client(request):
    settings = free_ports(model={"water": "water"}, device="cuda", engine=request.param)
    with run_in_thread(settings) as server, Client(server.grpc_url) as client:
        yield client


def rattled(seed):
    system = water64()
    noise = np.random.default_rng(seed).normal(0.0, 0.02, system.positions.shape)
    return system.moved(system.positions + noise)


def assert_close(found, expected):
    for name in EVERYTHING:
        one, other = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        scale = 1.0 if name.endswith("energy") else np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * scale)


def test_every_output_is_close_to_that_of_a_cpu_in_double_precision(client):
    systems = [rattled(seed) for seed in range(3)]
    expected = predict(registry.load("water", dtype="float64").potential, systems, EVERYTHING)
    for _ in range(3):  # evaluated directly, recorded as a CUDA graph, and replayed
        for found, other in zip(client.predict(systems, EVERYTHING), expected, strict=True):
            assert_close(found, other)
            assert found.provenance.device.startswith("cuda")


def test_predictions_of_a_stream_are_close_to_those_of_a_cpu(client):
    potential = registry.load("water", dtype="float64").potential
    with client.stream("water", EVERYTHING) as stream:
        for seed in range(5):
            system = rattled(seed)
            assert_close(stream.predict(system), predict(potential, [system], EVERYTHING)[0])


def test_nonconservativity_is_close_to_that_of_a_cpu(client):
    system = water64()
    few = System(system.atomic_numbers[:6], system.positions[:6])
    potential = registry.load("water", dtype="float64").potential
    here = nonconservativity(direct_jacobian(potential, few))
    assert client.nonconservativity(few, model="water").value == pytest.approx(here, rel=1e-3)


def test_a_run_resumes_from_a_checkpoint_bit_for_bit(client):
    system = water64()
    velocities = np.random.default_rng(0).normal(0.0, 0.02, system.positions.shape)
    start = Start(system, velocities, Integrator(time_step_fs=0.5, inner_steps=4))
    *_, whole = client.propagate(start, 40, 20, model="water")
    first = next(itertools.islice(client.propagate(start, 20, 20, model="water"), 1, None))
    *_, second = client.propagate(first, 20, 20, model="water")
    np.testing.assert_array_equal(second.positions, whole.positions)
    np.testing.assert_array_equal(second.velocities, whole.velocities)
