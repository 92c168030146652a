"""Tests of the state that a service tells of itself, alike over both transports."""

import asyncio
import re
from types import SimpleNamespace

import httpx2
import pytest

from tests.clients.serving import TOY, serve
from tests.service.callers.making import add_key, run_keys
from tests.systems import molecule
from tests.waiting import wait_until
from twinforce import AsyncClient, Client
from twinforce_service.callers.caller import Caller
from twinforce_service.callers.permission import CALLS, Permission
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.status import StatusReader
from twinforce_service.context import caller, permission
from twinforce_service.engine.report import BatchReport, DeviceMemory, Usage
from twinforce_service.metrics import Metrics
from twinforce_service.version import service_version

N_ATOMS = len(molecule())


@pytest.fixture(scope="module")
def server():
    with serve(model={"lj": TOY, "second": TOY}) as server, Client(server.grpc_url) as client:
        client.predict([molecule(seed=seed) for seed in range(3)], "hybrid", model="lj")
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service with keys, of which alice and bob have used one evaluation each."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    given = {
        "alice": ["--models", "second"],
        "bob": [],
        "monitor": ["--scope", "metrics"],
        "root": ["--scope", "admin"],
    }
    keys = {name: add_key(path, name, *options) for name, options in given.items()}
    with serve(model={"lj": TOY, "second": TOY}, keys=str(path)) as server:
        for name in ("alice", "bob"):
            with Client(server.grpc_url, key=keys[name]) as client:
                client.predict(molecule(), model="second")
        yield server, keys


def url_of(server, transport):
    return server.grpc_url if transport == "grpc" else server.rest_url


@pytest.mark.parametrize(
    ("transport", "encoding"), [("grpc", "protobuf"), ("rest", "protobuf"), ("rest", "json")]
)
def test_a_client_learns_the_state(server, transport, encoding):
    with Client(url_of(server, transport), encoding=encoding) as client:
        status = client.status()
        wait_until(lambda: client.status().uptime_s > status.uptime_s)
        assert client.status().start_id == status.start_id
    assert status.version == service_version()
    assert status.uptime_s > 0
    assert re.fullmatch("[0-9a-f]{16}", status.start_id)
    assert status.is_alive is status.is_ready is True
    assert [each.name for each in status.models] == ["lj", "second"]
    used, unused = status.models
    assert used.is_available is unused.is_available is True
    assert used.environments == unused.environments == ("main",)
    assert (used.n_evaluations, used.n_atoms) == (3, 3 * N_ATOMS)
    assert 1 <= used.n_batches <= 3
    assert 0 < used.batch_fill < 1
    assert used.device_s > 0
    assert used.queue_s > 0
    assert (unused.n_evaluations, unused.n_batches, unused.batch_fill) == (0, 0, 0.0)
    (caller,) = status.callers
    assert (caller.name, caller.n_evaluations, caller.n_atoms) == ("127.0.0.1", 3, 3 * N_ATOMS)
    assert caller.device_s == pytest.approx(used.device_s)
    assert status.devices == ()
    assert (status.n_waiting, status.n_waiting_atoms, status.n_runs, status.n_restarts) == (0,) * 4


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_client_for_asyncio_learns_it_too(server, transport):
    async def ask():
        async with AsyncClient(url_of(server, transport)) as client:
            return await client.status()

    assert [each.name for each in asyncio.run(ask()).models] == ["lj", "second"]


def test_the_json_has_what_the_documentation_shows(server):
    with httpx2.Client(base_url=server.rest_url) as rest:
        found = rest.get("/v1/status").json()
        docs = rest.get("/openapi.json").json()["paths"]["/v1/status"]["get"]
    example = docs["responses"]["200"]["content"]["application/json"]["example"]
    assert found.keys() == example.keys()
    for name in ("models", "callers"):
        assert found[name][0].keys() == example[name][0].keys()


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("name", "models", "callers", "n_evaluations"),
    [
        ("alice", ["second"], ["alice"], [None]),
        ("bob", ["lj", "second"], ["bob"], [None, None]),
        ("monitor", ["lj", "second"], ["alice", "bob"], [0, 2]),
        ("root", ["lj", "second"], ["alice", "bob"], [0, 2]),
    ],
)
@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_key_sees_its_models_and_itself_and_one_for_metrics_everybody(
    guarded, transport, encoding, name, models, callers, n_evaluations
):
    server, keys = guarded
    url = url_of(server, transport)
    with Client(url, key=keys[name], encoding=encoding) as client:
        status = client.status()
    assert [each.name for each in status.models] == models
    assert [each.n_evaluations for each in status.models] == n_evaluations
    counts = ("n_atoms", "n_batches", "batch_fill", "device_s", "queue_s")
    told = [getattr(each, count) is not None for each in status.models for count in counts]
    assert told == [name in ("monitor", "root")] * len(told)
    assert all(each.is_available and each.environments == ("main",) for each in status.models)
    assert sorted(each.name for each in status.callers) == callers


def test_callers_see_themselves_alone_if_metrics_have_a_port_of_their_own(tmp_path):
    path = tmp_path / "keys.json"
    keys = {name: add_key(path, name, "--scope", "admin") for name in ("alice", "bob")}
    with serve(keys=str(path), metrics_port=0) as server:
        for key in keys.values():
            with Client(server.grpc_url, key=key) as client:
                client.predict(molecule())
        wait_until(lambda: "bob" in usage_told(server, keys["bob"]))
        assert usage_told(server, keys["alice"]) == {"alice"}
        assert usage_told(server, keys["bob"]) == {"bob"}


def usage_told(server, key):
    with Client(server.grpc_url, key=key) as client:
        return {each.name for each in client.status().callers}


class _Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


@pytest.fixture
def read():
    """A reader of the state of a service of one model, its metrics and its clock."""
    engine = SimpleNamespace(is_alive=True, is_ready=True, models={"lj": None}, available_models={})
    metrics, clock = Metrics("1"), _Clock()
    return StatusReader(engine, metrics, Intake(), {}, clock), metrics, clock


def used(n_systems, caller="alice", memory=None):
    """Return the report of a batch of a caller, whose systems have 4 atoms."""
    usage = (Usage(caller, n_systems, 4 * n_systems, 2.0),)
    waited = (0.1,) * n_systems
    return BatchReport("lj", n_systems, 4 * n_systems, waited, 2.0, usage=usage, memory=memory)


def test_the_memory_of_a_device_is_that_of_all_engines_on_it(read):
    reader, metrics, _ = read
    metrics.observe_batch(used(1, memory=DeviceMemory("cuda:0", 2, 3, 90)), "main")
    metrics.observe_batch(used(1, memory=DeviceMemory("cuda:0", 10, 20, 70)), "mace")
    metrics.observe_batch(used(1, memory=DeviceMemory("cuda:1", 5, 6, 80)), "mace")
    found = {
        each.name: (each.used_bytes, each.reserved_bytes, each.free_bytes)
        for each in reader.of_service().devices
    }
    assert found == {"cuda:0": (12, 23, 70), "cuda:1": (5, 6, 80)}


def test_metrics_are_read_twice_a_second_for_callers_and_at_once_for_the_page(read):
    reader, metrics, clock = read
    metrics.observe_batch(used(3), "main")
    assert reader.of_caller().models[0].n_evaluations == 3
    metrics.observe_batch(used(2), "main")
    clock.time += 0.4
    kept = reader.of_caller()
    assert (kept.models[0].n_evaluations, kept.uptime_s) == (3, 0.0)
    assert reader.of_service().models[0].n_evaluations == 5
    clock.time += 0.2
    new = reader.of_caller()
    assert (new.models[0].n_evaluations, new.uptime_s) == (5, pytest.approx(0.6))


def test_a_caller_named_as_those_beyond_the_first_256_sees_itself_alone(read, tmp_path):
    reader, metrics, _ = read
    metrics.observe_batch(used(1, "other"), "main")
    for number in range(300):
        metrics.observe_batch(used(1, f"caller-{number}"), "main")
    (rest,) = [each for each in reader.of_service().callers if each.n_evaluations > 1]
    assert rest.n_evaluations == 301 - 256
    status, written = run_keys(tmp_path / "keys.json", "add", rest.name)
    assert status == 1
    assert "name: expected letters, digits" in written
    assert _told_without_metrics(reader, "other") == {"other": 1}
    assert _told_without_metrics(reader, "caller-299") == {}


def _told_without_metrics(reader, name):
    named = caller.set(Caller(name))
    allowed = permission.set(Permission(name, frozenset(CALLS)))
    try:
        return {each.name: each.n_evaluations for each in reader.of_caller().callers}
    finally:
        caller.reset(named)
        permission.reset(allowed)


def test_a_model_of_another_environment_says_where_it_runs():
    from twinforce_service.environments.placement import environments_of

    specs = {
        "here": "toy:lennard-jones",
        "there": "mace:small#env=mace",
        "both": "conservative:mace:small#env=mace+direct:toy:lennard-jones",
    }
    found = environments_of(specs)
    assert found == {"here": ("main",), "there": ("mace",), "both": ("mace", "main")}
