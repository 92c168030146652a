"""Tests of a hybrid whose parts live in two environments, against the same hybrid in one."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.service.environments.test_services import children_of, metric, unavailable
from tests.service.transports.rest_bodies import json_body
from tests.service.troubled import HELIUM
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client, Integrator, Start
from twinforce.ensembles import Langevin
from twinforce_proto import (
    OUTPUTS,
    InvalidRequestError,
    ModelLoadError,
    System,
    UnavailableError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.embedded import run_in_thread

PATIENCE = 180.0
TOY = "toy:lennard-jones"
# In one environment, pairs of atoms come in another order.
ROUNDED = {"rtol": 1e-12, "atol": 1e-14}


@pytest.fixture(scope="module")
def server(other_python, troubled_model):
    troubled = str(troubled_model[0])
    models = {
        "one": f"conservative:{troubled}+direct:{TOY}",
        "two": f"conservative:{troubled}#env=other+direct:{TOY}",
        "lj": TOY,
    }
    settings = free_ports(model=models, environment={"other": str(other_python)})
    with run_in_thread(settings) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url, reconnect_timeout=0.001) as client:
        wait_until(lambda: not unavailable(server))
        yield client


def assert_same(one, two, outputs=OUTPUTS):
    for name in OUTPUTS:
        if name in outputs:
            np.testing.assert_allclose(getattr(two, name), getattr(one, name), **ROUNDED)
        else:
            assert getattr(one, name) is getattr(two, name) is None


@pytest.mark.parametrize(
    "outputs",
    [
        OUTPUTS,
        ("energy",),
        ("direct_forces",),
        ("conservative_stress", "direct_stress"),
        ("atom_energies", "direct_forces"),
    ],
    ids=len,
)
def test_predictions_are_those_of_the_hybrid_in_one_environment(client, outputs):
    systems = [crystal(27), crystal(8, seed=1)]
    one, two = (client.predict(systems, outputs, name) for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert_same(ours, theirs, outputs)
        assert ours.provenance.model == "one"
        assert theirs.provenance.model == "two"
        assert (ours.provenance.sha256, ours.provenance.version) == (
            theirs.provenance.sha256,
            theirs.provenance.version,
        )
        assert theirs.timings.compute_s > 0


def test_it_is_described_as_the_hybrid_in_one_environment(client):
    one, two = client.model("one"), client.model("two")
    for name in ("cutoff", "elements", "outputs", "dtype", "device", "version", "sha256", "units"):
        assert getattr(one, name) == getattr(two, name)
    assert two.metadata["conservative"]["metadata"]["environment"] == "other"
    assert [info.name for info in client.models()] == ["one", "two", "lj"]


def test_a_part_has_no_name_that_clients_may_ask_for(client, server):
    with pytest.raises(InvalidRequestError):
        client.predict(molecule(3), "energy", "two#conservative")
    reply = httpx2.post(
        f"{server.rest_url}/v1/models/two%23conservative/predict", json=json_body(molecule())
    )
    assert reply.status_code == 404
    assert reply.json()["detail"].endswith("served: lj, one, two")


def test_bad_systems_are_refused_as_in_one_environment(client):
    bad = [molecule(3), System([8], [[0, 0, 0]])]
    texts = []
    for name in ("one", "two"):
        with pytest.raises(UnsupportedElementError) as refused:
            client.predict(bad, OUTPUTS[:1], name)
        texts.append(str(refused.value).replace(name, "NAME"))
    assert texts[0] == texts[1]
    for name in ("one", "two"):
        with pytest.raises(UnsupportedOutputError, match="per volume"):
            client.predict(molecule(3), "direct_stress", name)


def test_an_error_of_one_part_names_the_system(client):
    with pytest.raises(Exception, match=r"systems\[1\]: .*no krypton"):
        client.predict([molecule(2), molecule(2, element=36)], ("energy", "direct_forces"), "two")


def test_streams_work(client):
    systems = [molecule(5, seed=seed) for seed in range(3)]
    with client.stream("one") as one, client.stream("two") as two:
        for system in systems:
            for outputs in (("energy", "direct_forces"), ("direct_forces",)):
                assert_same(one.predict(system, outputs), two.predict(system, outputs), outputs)


@pytest.mark.parametrize("output", ["direct_forces", "conservative_forces"])
def test_the_distance_from_a_gradient_is_measured(client, output):
    one, two = (
        client.nonconservativity(crystal(8), name, output=output) for name in ("one", "two")
    )
    assert two.value == pytest.approx(one.value, rel=1e-9, abs=1e-15)
    assert two.provenance.model == "two"


def start(system, force_kind="hybrid"):
    integrator = Integrator(
        force_kind=force_kind,
        inner_steps=4 if force_kind == "hybrid" else 1,
        ensemble=Langevin(temperature_k=60.0, relaxation_fs=50),
    )
    velocities = np.random.default_rng(3).normal(scale=0.01, size=system.positions.shape)
    return Start(system, velocities, integrator, random=7)


@pytest.mark.parametrize("force_kind", ["hybrid", "direct"])
def test_a_run_takes_the_same_steps(client, force_kind):
    begin = start(crystal(27), force_kind)
    one, two = (list(client.propagate(begin, 24, 8, model=name)) for name in ("one", "two"))
    assert [each.step for each in two] == [0, 8, 16, 24]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(theirs.positions, ours.positions, **ROUNDED)
        np.testing.assert_allclose(theirs.velocities, ours.velocities, **ROUNDED)
    assert np.abs(two[-1].positions - two[0].positions).max() > 0.001
    (again,) = client.propagate(two[-2], 8)
    assert again.checkpoint == two[-1].checkpoint


def test_a_relaxation_takes_the_same_steps(client):
    one, two = (
        list(client.relax(crystal(8), model=name, max_steps=20, interval=5))
        for name in ("one", "two")
    )
    assert len(two) > 2
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(theirs.positions, ours.positions, **ROUNDED)


def test_a_run_refuses_what_no_part_supports(client):
    with pytest.raises(UnsupportedElementError, match="model 'two'"):
        list(client.propagate(start(molecule(3, element=8)), 8, model="two"))


def test_a_run_that_its_reader_leaves_ends(client, server):
    updates = client.propagate(start(molecule(3)), 800_000, 4, model="two")
    next(updates)
    updates.close()
    wait_until(lambda: metric(server, "twinforce_propagations") == {"": 0.0})
    assert client.predict(molecule(3), "energy", "two").energy is not None


def test_it_is_unavailable_while_one_part_is(client, server, other_python, gate):
    (pid,) = children_of(other_python)
    with gate.closed(), ThreadPoolExecutor(2) as pool, gate.starts_held():
        helium = molecule(2, element=HELIUM)
        both = pool.submit(client.predict, helium, ("energy", "direct_forces"), "two")
        held = pool.submit(client.predict, helium, "conservative_forces", "two")
        wait_until(lambda: metric(server, "twinforce_queue_requests") != {"": 0.0})
        os.kill(pid, signal.SIGKILL)
        for each in (both, held):
            with pytest.raises(UnavailableError, match="environment other"):
                each.result(PATIENCE)
        assert unavailable(server) == ["two"]
        with pytest.raises(UnavailableError, match="being restarted"):
            client.predict(molecule(3), "energy", "two")
        assert client.predict(molecule(3), "direct_forces", "two").direct_forces is not None
        assert client.predict(molecule(3), "energy", "one").energy is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("conservative:water#env=other+direct:toy:lennard-jones", "need the same dtype"),
        ("conservative:toy:harmonic#env=nowhere+direct:water", "no environment .* 'nowhere'"),
    ],
)
def test_parts_that_do_not_match_are_an_error_at_start(other_python, spec, message):
    settings = free_ports(model={"bad": spec}, environment={"other": str(other_python)})
    with pytest.raises(ModelLoadError, match=message):
        run_in_thread(settings)
