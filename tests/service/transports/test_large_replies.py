"""Tests that replies above the limit of a gRPC message are refused before they are computed."""

import numpy as np
import pytest

from tests.conftest import free_ports
from tests.logs import records_of
from tests.potentials import ARGON, Soft, loaded
from tests.systems import crystal
from twinforce import Client
from twinforce_dynamics.ensembles import SVR
from twinforce_dynamics.requests import PropagateRequest
from twinforce_dynamics.start import Integrator, Start
from twinforce_proto import (
    OUTPUTS,
    InvalidRequestError,
    NonconservativityRequest,
    PredictRequest,
    System,
    SystemTooLargeError,
)
from twinforce_service.calls import message_sizes
from twinforce_service.embedded import run_in_thread

LIMIT = 60_000
FORCES = ("energy", "conservative_forces", "direct_forces")


def gas(n_atoms):
    """Return atoms far enough from each other to have few neighbors."""
    grid = np.stack(np.meshgrid(*[np.arange(14.0)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
    return System(np.full(n_atoms, ARGON), 4.0 * grid)


@pytest.fixture(scope="module")
def potential():
    return Soft()


@pytest.fixture(scope="module")
def server(potential):
    with run_in_thread(
        free_ports(max_body_bytes=LIMIT), lambda: {"soft": loaded(potential)}
    ) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url, max_retries=0) as client:
        yield client


@pytest.fixture
def nothing_is_computed(potential, caplog):
    n_before = len(potential.batches)
    yield
    assert len(potential.batches) == n_before
    assert not records_of(caplog, "twinforce_service")


@pytest.mark.usefixtures("nothing_is_computed")
def test_a_system_whose_prediction_is_too_large_is_refused(client):
    system = gas(1300)  # 24 bytes per atom of each kind of forces
    with pytest.raises(SystemTooLargeError) as refused:
        client.predict([gas(2), system], FORCES)
    assert str(refused.value) == (
        "systems[1]: the reply with conservative_forces, direct_forces, energy of 1300 atoms takes "
        f"62400 bytes, more than the limit of {LIMIT}; ask for fewer outputs or for float32 arrays "
        "(reply_dtype), or raise max_body_bytes of the service"
    )


@pytest.mark.usefixtures("nothing_is_computed")
def test_a_step_of_a_stream_whose_prediction_is_too_large_is_refused(client):
    with client.stream() as stream, pytest.raises(SystemTooLargeError, match="62400 bytes"):
        stream.predict(gas(1300), FORCES)


@pytest.mark.usefixtures("nothing_is_computed")
def test_a_list_whose_predictions_are_too_large_together_is_refused(client):
    with pytest.raises(InvalidRequestError, match=r"of 13 systems takes 62400 bytes.*send fewer"):
        client.predict([gas(100)] * 13, FORCES)


def test_fewer_outputs_and_rest_are_answered(client, server):
    assert client.predict(gas(1300), FORCES[:2]).conservative_forces.shape == (1300, 3)
    with Client(server.rest_url) as rest:
        assert rest.predict(gas(1300), FORCES).direct_forces.shape == (1300, 3)


@pytest.mark.usefixtures("nothing_is_computed")
def test_norms_of_pairs_that_are_too_large_are_refused(client):
    with pytest.raises(SystemTooLargeError, match=r"all pairs of 87 atoms takes 60552 bytes"):
        client.nonconservativity(gas(87), pairs=True)


@pytest.mark.usefixtures("nothing_is_computed")
def test_runs_whose_updates_are_too_large_are_refused(client):
    system = gas(400)
    start = Start(system, np.zeros((400, 3)), Integrator(inner_steps=2))
    with pytest.raises(SystemTooLargeError, match="snapshots of 400 atoms take 64000 bytes each"):
        list(client.propagate(start, 2))
    with pytest.raises(SystemTooLargeError, match="body: expected at most"):
        list(client.relax(gas(2600)))


@pytest.mark.usefixtures("nothing_is_computed")
def test_a_message_above_the_limit_is_refused_in_words_that_help(client):
    with pytest.raises(SystemTooLargeError, match=r"at most 60000 bytes \(max_body_bytes"):
        client.predict([gas(1000)] * 4, ["energy"])
    with (
        client.stream() as stream,
        pytest.raises(SystemTooLargeError, match=r"at most 60000 bytes \(max_body_bytes"),
    ):
        stream.predict(gas(2700), ["energy"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("outputs", [*((each,) for each in OUTPUTS), OUTPUTS])
def test_the_size_is_that_of_the_reply(server, outputs, dtype):
    """The limit lies between the real size and the size without names and provenance."""
    request = PredictRequest("soft", (crystal(8), crystal(5)), frozenset(outputs), dtype)
    with Client(server.grpc_url) as client:
        predictions = client.predict(request.systems, outputs)
    arrays = [getattr(each, name) for each in predictions for name in outputs if name != "energy"]
    n_bytes = sum(array.size for array in arrays) * {"float32": 4, "float64": 8}[dtype]
    message_sizes.check_predictions(request, n_bytes)
    if n_bytes:
        with pytest.raises(InvalidRequestError):
            message_sizes.check_predictions(request, n_bytes - 1)


def test_snapshots_are_at_most_as_large_as_expected(server):
    system = crystal(64)
    velocities = np.random.default_rng(0).normal(0, 1e-3, (64, 3))
    integrator = Integrator(inner_steps=2, ensemble=SVR(temperature_k=50.0, relaxation_fs=100.0))
    start = Start(system, velocities, integrator, fixed_atoms=[3])
    with Client(server.grpc_url) as client:
        *_, snapshot = client.propagate(start, 2)
    n_bytes = snapshot.positions.nbytes + snapshot.velocities.nbytes + len(snapshot.checkpoint)
    expected = 64 * 160
    assert 0.8 * expected < n_bytes < expected + 2000
    message_sizes.check_snapshots(PropagateRequest("soft", start, 2), expected)
    with pytest.raises(SystemTooLargeError):
        message_sizes.check_snapshots(
            PropagateRequest("soft", snapshot.checkpoint, 2), expected - 1
        )
    norms = NonconservativityRequest("soft", system, "direct_forces", pairs=True)
    message_sizes.check_pair_norms(norms, 64 * 64 * 8)
