"""Tests of services whose models live in two environments of Python."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.conftest import free_ports
from tests.potentials import ARGON
from tests.service.environments import making
from tests.service.troubled import HELIUM
from tests.systems import crystal, molecule
from tests.waiting import wait_until
from twinforce import Client
from twinforce.cli import run
from twinforce_proto import System, UnavailableError, UnknownModelError
from twinforce_service.embedded import run_in_thread

PATIENCE = 180.0
HYBRID = ("energy", "conservative_forces", "direct_forces")


def children_of(python):
    """Return the ids of the engine processes that an interpreter runs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and command[0] == str(python).encode():
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "evaluations"


@pytest.fixture(scope="module")
def server(other_python, troubled_model, marked_here, log):
    del marked_here
    models = {
        "here": f"marked:mine#log={log}",
        "lj": "toy:lennard-jones",
        "there": f"marked:mine#env=other&log={log}",
        "troubled": f"{troubled_model[0]}#env=other",
        "within": "conservative:toy:lennard-jones#env=other+direct:marked:mine#env=other",
    }
    settings = free_ports(model=models, environment={"other": str(other_python)})
    with run_in_thread(settings) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.grpc_url, reconnect_timeout=0.001) as client:
        wait_until(lambda: not unavailable(server))
        yield client


def unavailable(server):
    return httpx2.get(f"{server.rest_url}/health/ready").json().get("unavailable", [])


def metric(server, name):
    """Return the values of a metric by its labels."""
    lines = httpx2.get(f"{server.rest_url}/metrics").text.splitlines()
    values = (line.removeprefix(name).rsplit(" ", 1) for line in lines if line.startswith(name))
    return {labels: float(value) for labels, value in values if labels[:1] in ("{", "")}


def test_a_model_comes_from_the_environment_of_its_spec(client, other_python):
    here, there = client.model("here").metadata, client.model("there").metadata
    assert here["prefix"] != there["prefix"] == str(other_python.parents[1])
    assert "environment" not in here
    assert there["environment"] == "other"
    for name in ("here", "there"):
        assert client.predict(molecule(3), HYBRID, name).provenance.model == name


def test_answers_are_those_of_the_same_model_here(client):
    systems = [crystal(27), molecule(5), System([ARGON], [[0, 0, 0]])]
    one, other = (client.predict(systems, HYBRID, name) for name in ("here", "there"))
    for here, there in zip(one, other, strict=True):
        assert here.energy == there.energy
        for name in HYBRID[1:]:
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_nothing_of_our_packages_is_mapped_in_the_other_environment(client, other_python):
    client.predict(molecule(3), HYBRID, "there")
    (pid,) = children_of(other_python)
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert str(making.site_of(other_python.parents[1])) in mapped
    assert str(making.OUR_SITE) not in mapped
    variables = Path(f"/proc/{pid}/environ").read_bytes()
    assert str(making.OUR_SITE).encode() not in variables


def test_all_models_are_listed_and_ready(client, server, capsys):
    names = ["here", "lj", "there", "troubled", "within"]
    assert [info.name for info in client.models()] == names
    ready = httpx2.get(f"{server.rest_url}/health/ready").json()
    assert ready == {"status": "ready", "models": names}
    assert run(["models", "--url", server.rest_url]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[1:]] == names
    with pytest.raises(UnknownModelError, match="served: here, lj, there, troubled, within"):
        client.predict(molecule(3), HYBRID, "ice")
    available = metric(server, "twinforce_model_available")
    assert available == {f'{{model="{name}"}}': 1.0 for name in names}


def test_a_hybrid_of_one_other_environment_lives_there(client):
    found = client.predict(crystal(8), HYBRID, "within")
    energy = client.predict(crystal(8), HYBRID[:2], "lj")
    direct = client.predict(crystal(8), HYBRID[2], "there")
    assert found.energy == pytest.approx(energy.energy, abs=1e-12)
    np.testing.assert_allclose(found.conservative_forces, energy.conservative_forces, atol=1e-12)
    np.testing.assert_allclose(found.direct_forces, direct.direct_forces, atol=1e-12)
    metadata = client.model("within").metadata
    assert metadata["environment"] == "other"


def test_batches_of_two_environments_never_overlap(client, log):
    log.write_text("")
    with ThreadPoolExecutor(8) as pool:
        done = [
            pool.submit(client.predict, crystal(64, seed=seed), HYBRID, name)
            for seed in range(20)
            for name in ("here", "there")
        ]
        for each in done:
            each.result(PATIENCE)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for _, pid in lines}) == 2
    begun, ended = lines[::2], lines[1::2]
    assert {what for what, _ in begun} == {"begin"}
    assert [pid for _, pid in begun] == [pid for _, pid in ended]


def test_only_the_models_of_a_dead_engine_are_unavailable(client, server, other_python, gate):
    (pid,) = children_of(other_python)
    with gate.starts_held():
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: unavailable(server))
        ready = httpx2.get(f"{server.rest_url}/health/ready").json()
        assert ready["models"] == ["here", "lj"]
        available = metric(server, "twinforce_model_available")
        assert (available['{model="here"}'], available['{model="there"}']) == (1.0, 0.0)
        assert ready["unavailable"] == ["there", "troubled", "within"]
        assert client.predict(molecule(3), HYBRID, "here").energy > 0
        for name in ("there", "troubled"):
            with pytest.raises(
                UnavailableError, match=r"cpu \(environment other\) failed .*SIGKILL"
            ):
                client.predict(molecule(3), HYBRID, name)
        assert len(client.models()) == 5
    wait_until(lambda: not unavailable(server))
    (again,) = children_of(other_python)
    assert again != pid
    assert client.predict(molecule(3), HYBRID, "there").energy > 0
    restarts = metric(server, "twinforce_engine_restarts_total")
    assert restarts == {'{device="cpu",environment="other"}': 1.0}


def test_an_engine_that_dies_on_the_device_leaves_it_to_the_others(
    client, server, other_python, gate
):
    (pid,) = children_of(other_python)
    helium = molecule(2, element=HELIUM)
    with gate.closed(), ThreadPoolExecutor(3) as pool:
        held = [  # they cannot share a batch, so one of them waits
            pool.submit(client.predict, helium, outputs, "troubled")
            for outputs in ("energy", "conservative_forces")
        ]
        wait_until(lambda: metric(server, "twinforce_queue_requests") == {"": 1.0})
        queued = pool.submit(client.predict, molecule(4), "energy", "here")
        wait_until(lambda: metric(server, "twinforce_queue_requests") == {"": 2.0})
        os.kill(pid, signal.SIGKILL)
        for each in held:
            with pytest.raises(UnavailableError):
                each.result(PATIENCE)
        assert queued.result(PATIENCE).energy > 0
