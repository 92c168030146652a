"""Tests of the state that a service tells of itself, alike over both transports."""

import asyncio

import httpx2
import pytest

from tests.clients.serving import TOY, serve
from tests.service.callers.making import add_key
from tests.systems import molecule
from twinforce import AsyncClient, Client
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
        later = client.status()
    assert status.version == service_version()
    assert 0 < status.uptime_s < later.uptime_s
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
    ("name", "models", "callers"),
    [
        ("alice", ["second"], ["alice"]),
        ("bob", ["lj", "second"], ["bob"]),
        ("monitor", ["lj", "second"], ["alice", "bob"]),
        ("root", ["lj", "second"], ["alice", "bob"]),
    ],
)
def test_a_key_sees_its_models_and_itself_and_one_for_metrics_everybody(
    guarded, transport, name, models, callers
):
    server, keys = guarded
    with Client(url_of(server, transport), key=keys[name]) as client:
        status = client.status()
    assert [each.name for each in status.models] == models
    assert sorted(each.name for each in status.callers) == callers


def test_callers_see_themselves_alone_if_metrics_have_a_port_of_their_own(tmp_path):
    path = tmp_path / "keys.json"
    keys = {name: add_key(path, name, "--scope", "admin") for name in ("alice", "bob")}
    with serve(keys=str(path), metrics_port=0) as server:
        for key in keys.values():
            with Client(server.grpc_url, key=key) as client:
                client.predict(molecule())
                status = client.status()
    assert [each.name for each in status.callers] == ["bob"]


def test_a_model_of_another_environment_says_where_it_runs():
    from twinforce_service.environments.placement import environments_of

    specs = {
        "here": "toy:lennard-jones",
        "there": "mace:small#env=mace",
        "both": "conservative:mace:small#env=mace+direct:toy:lennard-jones",
    }
    found = environments_of(specs)
    assert found == {"here": ("main",), "there": ("mace",), "both": ("mace", "main")}
