"""Tests that invalid requests for runs are refused with the name of the field."""

import dataclasses
import inspect
import pickle

import httpx2
import numpy as np
import pytest

from tests.clients.serving import serve
from tests.potentials import WithoutDirect, loaded
from tests.service.calls.conftest import argon, start, velocities
from twinforce import (
    Client,
    Integrator,
    InvalidRequestError,
    InvalidSystemError,
    ServiceError,
    Start,
    System,
    UnknownModelError,
    UnsupportedOutputError,
)
from twinforce._transports.transport import Call
from twinforce.ensembles import FS, NPT, SVR, Langevin
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.codec.integrator import integrator_from_proto, integrator_to_proto
from twinforce_proto.v1 import inference_pb2 as pb

MTS = Integrator(inner_steps=4)
THERMOSTAT = SVR(temperature_k=60.0, relaxation_fs=50)
PRESSURE = NPT(thermostat=THERMOSTAT, pressure_bar=1600.0, relaxation_fs=500)


def body(**changes):
    system = argon()
    start = {
        "system": {
            "atomic_numbers": system.atomic_numbers.tolist(),
            "positions": system.positions.tolist(),
            "cell": system.cell.tolist(),
            "pbc": True,
        },
        "velocities": (velocities() * FS).tolist(),
        "integrator": {"force_kind": "hybrid", "inner_steps": 4, "time_step_fs": 0.5},
        "seed": 1,
    }
    given = changes.pop("start", {})
    return {
        "start": None if given is None else start | given,
        "n_steps": 8,
        "interval": 4,
    } | changes


def test_the_time_step_says_its_unit_and_its_former_name_is_refused():
    assert Integrator(time_step_fs=0.5).duration == 0.5 * FS
    with pytest.raises(TypeError, match=r"expected time_step_fs, .* got"):
        Integrator(time_step=0.5)
    assert not hasattr(Integrator(), "time_step")
    copied = pickle.loads(pickle.dumps(Integrator(time_step_fs=0.25, inner_steps=2)))
    assert copied == dataclasses.replace(Integrator(inner_steps=2), time_step_fs=0.25)
    assert "time_step_fs" in inspect.signature(Integrator).parameters
    with pytest.raises(TypeError, match=r"Integrator: expected values by name .* got 1 without"):
        Integrator(0.5)


def test_a_pickle_with_a_time_step_in_the_former_unit_is_refused():
    old = (  # of Integrator(time_step=0.5 * ase.units.fs), by position
        b"\x80\x02ctwinforce_dynamics.start\nIntegrator\nq\x00)\x81q\x01]q\x02("
        b"G?\xa9%f\xb8\xc0\x1c\x0bX\x06\x00\x00\x00hybridq\x03K\x08"
        b"ctwinforce_dynamics.ensembles\nNVE\nq\x04)\x81q\x05]q\x06beb."
    )
    with pytest.raises(TypeError, match=r"Integrator: .* names of values.* time_step_fs=0\.5"):
        pickle.loads(old)


def test_a_start_survives_pickling():
    expected = start(MTS, random=1)
    found = pickle.loads(pickle.dumps(expected))
    assert found.integrator == MTS
    assert found.random_state == expected.random_state
    np.testing.assert_array_equal(found.velocities, expected.velocities)


@pytest.mark.parametrize(
    ("make", "field", "text"),
    [
        (lambda: Integrator(force_kind="both"), "force_kind", "expected conservative or direct"),
        (lambda: Integrator(time_step_fs=0.0), "time_step_fs", "expected a positive number"),
        (lambda: Integrator(inner_steps=0), "inner_steps", "whole number, at least 1, got 0"),
        (lambda: start(MTS, masses=[1.0]), "masses", r"expected shape \[8\], got shape \[1\]"),
        (lambda: start(MTS, masses=[0.0] * 8), "masses", r"got 0.0 at \[0\]"),
        (lambda: start(MTS, fixed_atoms=[8]), "fixed_atoms", "indices from 0 to 7, got 8"),
        (lambda: start(MTS, fixed_atoms=range(8)), "fixed_atoms", "got all atoms"),
        (lambda: start(MTS, fixed_atoms=[0.5]), "fixed_atoms", "whole numbers"),
        (lambda: start(MTS, random=-1), "seed", "whole number from 0"),
        (
            lambda: start(MTS, random=np.random.Generator(np.random.MT19937(1))),
            "random",
            "PCG64, got MT19937",
        ),
        (lambda: start(Integrator(ensemble=PRESSURE), fixed_atoms=[1]), "fixed_atoms", "pressure"),
        (
            lambda: Start(System([18], [[0, 0, 0]]), [[0, 0, 0]], Integrator(ensemble=PRESSURE)),
            "pbc",
            "all three directions",
        ),
        (lambda: Start(argon(), np.zeros((7, 3)), MTS), "velocities", "shape"),
        (lambda: Start(argon(), np.full((8, 3), np.nan), MTS), "velocities", "finite"),
        (lambda: Start(argon(), np.full((8, 3), 1e7), MTS), "velocities", "Å per unit of time"),
    ],
)
def test_invalid_arguments_are_refused_before_they_are_sent(make, field, text):
    with pytest.raises(ServiceError, match=text) as caught:
        make()
    assert isinstance(caught.value, InvalidRequestError | InvalidSystemError)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("n_steps", "interval", "field"),
    [(0, 0, "n_steps"), (6, 0, "n_steps"), (8, 2, "interval"), (8, -4, "interval")],
)
def test_the_number_of_steps_must_be_a_multiple_of_inner_steps(client, n_steps, interval, field):
    with pytest.raises(InvalidRequestError) as caught:
        list(client.propagate(start(MTS), n_steps, interval))
    assert caught.value.field == field


def test_a_thermostat_that_rescales_needs_nonzero_velocities(client):
    begin = Start(argon(), np.zeros((8, 3)), Integrator(ensemble=THERMOSTAT))
    with pytest.raises(InvalidRequestError, match="velocities: expected nonzero") as caught:
        list(client.propagate(begin, 8))
    assert caught.value.field == "velocities"


def test_an_unknown_model_is_refused(client):
    with pytest.raises(UnknownModelError):
        list(client.propagate(start(MTS), 4, model="ice"))


def test_a_model_without_direct_forces_runs_on_conservative_forces_only():
    atoms = System([18, 18], [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    with serve({"soft": loaded(WithoutDirect())}) as server, Client(server.grpc_url) as client:
        with pytest.raises(UnsupportedOutputError, match="direct_forces"):
            list(client.propagate(Start(atoms, np.zeros((2, 3)), MTS), 4))
        plain = Start(atoms, np.zeros((2, 3)), Integrator(force_kind="conservative"))
        assert [each.step for each in client.propagate(plain, 4)] == [0, 4]


def test_too_many_steps_are_refused():
    text = "at most 100 in one call, got 104"
    with (
        serve(max_propagation_steps=100) as server,
        Client(server.grpc_url) as client,
        pytest.raises(InvalidRequestError, match=text) as caught,
    ):
        list(client.propagate(start(MTS), 104))
    assert caught.value.field == "n_steps"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"start": {"velocities": [[0, 0, 0]]}}, "velocities"),
        ({"start": {"integrator": {"force_kind": "both", "time_step_fs": 1.0}}}, "integrator"),
        ({"start": {"integrator": {"force_kind": "hybrid", "time_step_fs": 0.0}}}, "time_step_fs"),
        ({"start": {"seed": -1}}, "seed"),
        ({"start": {"random_state": {"state": "?", "increment": ""}}}, "random_state"),
        ({"start": {"random_state": {"state": "", "increment": ""}}}, "random_state"),
        (
            {"start": {"system": {"atomic_numbers": [0], "positions": [[0, 0, 0]]}}},
            "atomic_numbers",
        ),
        ({"start": None}, "origin"),
        ({"checkpoint": ""}, "origin"),
        ({"start": None, "checkpoint": "AAAA"}, "checkpoint"),
        ({"start": None, "checkpoint": "not base64"}, "checkpoint"),
        ({"n_steps": 1.5}, "n_steps"),
        ({"unheard_of": 1}, "unheard_of"),
    ],
)
def test_invalid_bodies_are_problem_details(server, change, field):
    reply = httpx2.post(f"{server.rest_url}/v1/models/lj/propagate", json=body(**change))
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["field"] == field


def test_two_ensembles_are_refused(server):
    given = {"temperature_k": 300.0, "relaxation_fs": 100.0}
    integrator = {"force_kind": "direct", "time_step_fs": 1.0, "svr": given, "langevin": given}
    asked = body(start={"integrator": integrator})
    reply = httpx2.post(f"{server.rest_url}/v1/models/lj/propagate", json=asked)
    assert (reply.status_code, reply.json()["field"]) == (422, "ensemble")


def test_a_reply_over_rest_is_lines_of_json(server):
    with httpx2.stream("POST", f"{server.rest_url}/v1/models/lj/propagate", json=body()) as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        lines = list(reply.iter_lines())
    assert len(lines) == 3


def test_an_invalid_checkpoint_is_refused(client):
    *_, last = client.propagate(start(MTS), 4)
    good = pb.Checkpoint.FromString(last.checkpoint)

    def corrupted(change):
        message = pb.Checkpoint()
        message.CopyFrom(good)
        change(message)
        return message.SerializeToString()

    def fill_with_nan(message):
        message.momenta.data = np.full((8, 3), np.nan).tobytes()

    def remove_the_forces(message):
        message.prediction.ClearField("direct_forces")

    def remove_an_atom(message):
        message.momenta.data = message.momenta.data[24:]

    for change in (
        fill_with_nan,
        remove_the_forces,
        remove_an_atom,
        lambda message: setattr(message, "format", "another"),
        lambda message: setattr(message, "step", -1),
        lambda message: setattr(message, "step", 2**63 - 1),
        lambda message: setattr(message, "supplied", float("nan")),
        lambda message: message.start.random_state.ClearField("state"),
        lambda message: setattr(message.start.integrator, "time_step_fs", -1.0),
    ):
        reply = _reply_to(client, corrupted(change))
        assert isinstance(reply, InvalidRequestError), change
        assert reply.field == "checkpoint"
    for garbage in (b"x", b"", last.checkpoint[: len(last.checkpoint) // 2]):
        assert isinstance(_reply_to(client, garbage), InvalidRequestError)


def test_a_checkpoint_of_other_weights_is_refused(client):
    *_, last = client.propagate(start(MTS), 4)
    other = dataclasses.replace(Checkpoint.from_bytes(last.checkpoint), sha256="f" * 64)
    with pytest.raises(
        InvalidRequestError, match="checkpoint: expected one made with lj"
    ) as caught:
        list(client.propagate(other.to_bytes(), 4))
    assert caught.value.field == "checkpoint"


def _reply_to(client, checkpoint):
    """Return the error of the service for a checkpoint that the client has not checked."""
    message = pb.PropagateRequest(model="lj", checkpoint=checkpoint, n_steps=4)
    try:
        return list(client._connections.get().shared().receive(Call("Propagate", message, None)))
    except ServiceError as error:
        return error


def test_an_integrator_is_the_same_after_repeated_encoding():
    rng = np.random.default_rng(0)
    for _ in range(300):
        fs, relaxation, bar = rng.uniform(0.1, 100.0, 3)
        thermostat = Langevin(temperature_k=60.0, relaxation_fs=relaxation)
        pressure = NPT(thermostat=thermostat, pressure_bar=bar, relaxation_fs=3 * relaxation)
        integrator = Integrator(time_step_fs=fs, ensemble=pressure)
        once = integrator_from_proto(integrator_to_proto(integrator))
        assert once == integrator_from_proto(integrator_to_proto(once))
