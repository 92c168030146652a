"""Clients that follow an address file find the service again wherever it starts."""

import asyncio
import json
import os
import pickle
import threading
import time
import traceback
from contextlib import ExitStack

import numpy as np
import pytest

from tests.clients.certificates import Authority
from tests.clients.serving import port_of, serve
from tests.clients.test_outages import start
from tests.service.callers.making import add_key
from tests.systems import molecule
from twinforce import AsyncClient, Client, UnavailableError
from twinforce.ase import TwinForceCalculator
from twinforce.cli import run

TRANSPORTS = ["grpc", "rest"]


class Service:
    """A service that moves: to other ports, with another key, as its address file says."""

    def __init__(self, folder):
        self.path = folder / "job.json"
        self._folder = folder
        self._stack = ExitStack()
        self._n_starts = 0

    def start(self, **settings):
        self._n_starts += 1
        keys = self._folder / f"keys-{self._n_starts}.json"
        key = add_key(keys, "me")
        self.server = self._stack.enter_context(serve(keys=str(keys), **settings))
        self.write({"grpc": self.server.grpc_url, "rest": self.server.rest_url, "key": key})

    def write(self, *servers, **members):
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"servers": servers, "n_servers": len(servers)} | members))
        new.chmod(0o600)
        new.replace(self.path)

    def stop(self):
        self._stack.close()


@pytest.fixture
def service(tmp_path):
    found = Service(tmp_path)
    yield found
    found.stop()


@pytest.fixture(scope="module")
def settled(tmp_path_factory):
    """A service that stays where it is."""
    found = Service(tmp_path_factory.mktemp("settled"))
    found.start()
    yield found
    found.stop()


@pytest.fixture(params=TRANSPORTS)
def url(request, service):
    return f"file+{request.param}:{service.path}"


def test_every_call_goes_to_where_the_service_is_by_then(service, url):
    service.start()
    with Client(url, timeout=60) as client, client.stream("lj") as walker:
        expected = client.predict(molecule(), model="lj").energy
        assert walker.predict(molecule()).energy == expected
        whole = [each.positions for each in client.propagate(start(), 40, 10, model="lj")]
        snapshots = client.propagate(start(), 40, 10, model="lj")
        positions = [next(snapshots).positions]
        service.stop()
        service.start()
        assert walker.predict(molecule()).energy == expected
        assert client.predict(molecule(), model="lj").energy == expected
        positions += [each.positions for each in snapshots]
        np.testing.assert_array_equal(positions, whole)
        relaxed = list(client.relax(molecule(), model="lj", max_steps=2))
        assert relaxed[-1].is_last
        assert str(service.path) in client.url


def test_an_asyncio_client_follows(service, url):
    service.start()

    async def use():
        async with AsyncClient(url, timeout=60) as client:
            expected = (await client.predict(molecule(), model="lj")).energy
            async with client.stream("lj") as walker:
                assert (await walker.predict(molecule())).energy == expected
                await asyncio.to_thread(service.stop)
                await asyncio.to_thread(service.start)
                assert (await walker.predict(molecule())).energy == expected
            assert (await client.predict(molecule(), model="lj")).energy == expected
            snapshots = [each async for each in client.propagate(start(), 4, 2, model="lj")]
            assert len(snapshots) == 3

    asyncio.run(use())


def test_a_client_may_be_there_before_the_service(service, url):
    with Client(url, timeout=60) as client:
        found = []
        asking = threading.Thread(target=lambda: found.append(client.models()))
        asking.start()
        service.start()
        asking.join()
        assert [each.name for each in found[0]] == ["lj"]


def test_a_service_that_never_starts_is_reported(url):
    expected = r"job.json: no such file: the service has not"
    with Client(url, timeout=0.5) as client, pytest.raises(UnavailableError, match=expected):
        client.models()


def test_an_address_that_is_no_longer_right_is_waited_for(service, url):
    """A file that an ended job left behind may name a port where other programs answer."""
    with serve() as other:
        service.write(
            {
                "grpc": other.rest_url.replace("http", "grpc"),
                "rest": other.grpc_url.replace("grpc", "http"),
            }
        )
        with Client(url, timeout=60) as client:
            found = []
            asking = threading.Thread(target=lambda: found.append(client.models()))
            asking.start()
            service.start()
            asking.join()
            assert [each.name for each in found[0]] == ["lj"]


def test_a_service_with_another_key_at_the_same_ports_is_found(service, url):
    service.start()
    with Client(url, timeout=60) as client:
        client.models()
        ports = [port_of(each) for each in (service.server.rest_url, service.server.grpc_url)]
        service.stop()
        service.start(rest_port=ports[0], grpc_port=ports[1])
        assert client.predict(molecule(), model="lj").energy < 1


def test_several_servers_are_replicas(service, url):
    with ExitStack() as stack:
        servers = [stack.enter_context(serve()) for _ in range(2)]
        service.write(*({"grpc": each.grpc_url, "rest": each.rest_url} for each in servers))
        with Client(url, timeout=60) as client:
            walkers = [client.stream("lj") for _ in range(2)]
            expected = [each.predict(molecule()).energy for each in walkers]
            servers[0].stop()
            assert [each.predict(molecule()).energy for each in walkers] == expected


def test_servers_of_which_some_have_yet_to_start_are_waited_for(service, url):
    with serve() as server:
        entry = {"grpc": server.grpc_url, "rest": server.rest_url}
        service.write(entry, n_servers=2)
        expected = "1 of 2 servers have started"
        with Client(url, timeout=0.5) as client, pytest.raises(UnavailableError, match=expected):
            client.models()
        long_ago = time.time() - 100
        os.utime(service.path, (long_ago, long_ago))
        with Client(url, timeout=60) as client:
            assert [each.name for each in client.models()] == ["lj"]


def test_the_certificate_in_the_file_is_trusted(service, url, tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    with serve(tls_certificate=str(certificate), tls_key=str(key)) as server:
        entry = {"grpc": server.grpc_url, "rest": server.rest_url}
        service.write(entry | {"ca": authority.ca.read_text()})
        with Client(url, timeout=60) as client:
            assert [each.name for each in client.models()] == ["lj"]
        service.write(entry)
        with Client(url, timeout=1) as client, pytest.raises(UnavailableError):
            client.models()


def test_the_certificate_in_the_file_precedes_that_of_the_environment(
    service, url, tmp_path, monkeypatch
):
    folders = [tmp_path / name for name in ("right", "wrong")]
    for each in folders:
        each.mkdir()
    authority, other = map(Authority, folders)
    certificate, key = authority.issue("server")
    with serve(tls_certificate=str(certificate), tls_key=str(key)) as server:
        entry = {"grpc": server.grpc_url, "rest": server.rest_url}
        service.write(entry | {"ca": authority.ca.read_text()})
        for found in (other.ca, tmp_path / "missing.pem"):
            monkeypatch.setenv("TWINFORCE_CA", str(found))
            with Client(url, timeout=60) as client:
                assert [each.name for each in client.models()] == ["lj"]
        service.write(entry | {"ca": other.ca.read_text()})
        with Client(url, timeout=60, ca=authority.ca) as client:
            assert [each.name for each in client.models()] == ["lj"]


def test_a_key_that_is_given_precedes_that_in_the_file(settled, service, url, monkeypatch):
    monkeypatch.setenv("TWINFORCE_KEY", "another")
    service.path.write_bytes(settled.path.read_bytes())
    service.path.chmod(0o600)
    content = json.loads(service.path.read_text())["servers"][0]
    with Client(url, timeout=60) as client:
        client.models()
    key = content.pop("key")
    service.write(content)
    with Client(url, timeout=60, key=key) as client:
        client.models()


def test_the_calculator_the_command_and_copies_follow_too(settled, capsys, monkeypatch):
    url = f"file:{settled.path}"
    with Client(url, timeout=60) as client:
        copied = pickle.loads(pickle.dumps(client))
        with copied:
            assert copied.predict(molecule(), model="lj").energy < 1
        assert key_in(settled) not in repr(client) + repr(vars(client))
    atoms = ase_atoms()
    atoms.calc = TwinForceCalculator(url, model="lj")
    assert atoms.get_potential_energy() < 1
    monkeypatch.setenv("TWINFORCE_URL", url)
    assert run(["models", "--url", url]) == 0
    assert "lj" in capsys.readouterr().out


def key_in(service):
    return json.loads(service.path.read_text())["servers"][0]["key"]


def ase_atoms():
    import ase

    system = molecule()
    return ase.Atoms(system.atomic_numbers, system.positions, cell=system.cell, pbc=system.pbc)


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}", "FILE:{}"])
def test_forms_of_the_path(settled, form):
    with Client(form.format(settled.path), timeout=60) as client:
        client.models()


def test_a_path_may_be_relative_or_in_the_home(settled, monkeypatch):
    monkeypatch.setenv("HOME", str(settled.path.parent))
    monkeypatch.chdir(settled.path.parent)
    clients = [Client("file:job.json", timeout=60), Client("file:~/job.json", timeout=60)]
    monkeypatch.chdir("/")
    for client in clients:
        with client:
            client.models()


@pytest.mark.parametrize("url", ["file:", "file://", "file://elsewhere/job.json", "file:///"])
def test_what_is_no_path_is_refused(url):
    with pytest.raises(ValueError, match="expected the path of an address file, such as file:~/"):
        Client(url)


GOOD = {"grpc": "grpc://127.0.0.1:8001"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not an address file"),
        ("[]", "expected an object with a list of servers"),
        ('{"servers": 1}', "expected an object with a list of servers"),
        ('{"servers": []}', "expected at least one server"),
        ('{"servers": ["grpc://a:1"]}', "servers: expected objects"),
        ('{"servers": [{}]}', "expected the address of grpc or rest"),
        ('{"servers": [{"grpc": "http://127.0.0.1:1"}]}', "expected the address of grpc, got http"),
        ('{"servers": [{"grpc": 3}]}', "expected a url"),
        ('{"servers": [{"grpc": "grpc://node:1", "key": "k"}]}', "begins with grpcs://"),
        ('{"servers": [{"grpc": "grpc://a:1", "ca": 3}]}', "certificate in PEM"),
        ('{"servers": [{"grpc": "grpcs://a:1", "ca": "none"}]}', "certificate in PEM"),
        ('{"servers": [{"grpc": "grpcs://a:1", "ca": ""}]}', "certificate in PEM"),
        ('{"servers": [{"grpc": "grpcs://a:1", "ca": "\\u00e9"}]}', "certificate in PEM"),
        ('{"servers": [{"rest": "https://a:1", "ca": "\\ud800"}]}', "certificate in PEM"),
        ('{"servers": [{"grpc": "grpcs://a:1", "key": ["k"]}]}', "key: expected a text, got list"),
        ("[" * 100_000, "nested less deeply"),
        ('{"servers":' * 100_000, "nested less deeply"),
        ("\0\0", "not an address file"),
        (
            '{"servers": [{"grpc": "grpc://a:1"}, {"grpc": "grpcs://a:1"}]}',
            "differ in host and port only",
        ),
    ],
)
def test_a_file_that_is_no_address_file_is_refused(content, message, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError, match=message):
        Client(f"file:{path}")


def test_a_file_that_others_may_write_is_refused(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"servers": [GOOD]}))
    path.chmod(0o620)
    with pytest.raises(ValueError, match="only its owner may write to: chmod 600"):
        Client(f"file:{path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    """It could lead the user, with the key of the environment, to a server of the other."""
    monkeypatch.setenv("TWINFORCE_KEY", "mine")
    path = tmp_path / "job.json"
    path.write_text(json.dumps({"servers": [{"grpc": "grpcs://elsewhere:1"}]}))
    path.chmod(0o644)
    os.chown(path, 12345, -1)
    with pytest.raises(ValueError, match=r"expected a file of this user .* user with id 12345"):
        Client(f"file:{path}")


SECRET = "tf_0123456789_abcdefghijklmnop"


@pytest.mark.parametrize(
    "content",
    [
        '{"servers": [{"grpc": "grpcs://a:1", "key": "%s", "ca": "none"}]}',
        '{"servers": [{"grpc": "grpc://node:1", "key": "%s"}]}',
        '{"servers": [{"grpc": "grpcs://a:1", "key": "%s é"}]}',
        '{"servers": [{"grpc": "http://a:1", "key": "%s"}]}',
        '{"servers": [{"grpc": "grpcs://a:1", "key": "%s"}], "n_servers": "1"}',
        '{"servers": [{"grpc": "grpcs://a:1", "key": "%s"}',
    ],
)
def test_no_traceback_shows_the_key_in_a_file(content, tmp_path):
    path = tmp_path / "job.json"
    path.write_text(content % SECRET)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="not an address file") as caught:
        Client(f"file:{path}")
    assert SECRET not in with_values(caught.value)


def test_no_traceback_shows_a_key_that_is_given(service, url):
    service.write({"grpc": "grpcs://127.0.0.1:1", "rest": "https://127.0.0.1:1"})
    client = Client(url, timeout=0.2, key=SECRET)
    service.path.write_text("[" * 100_000)
    with client, pytest.raises(UnavailableError) as caught:
        client.models()
    assert SECRET not in with_values(caught.value)
    service.write({"grpc": "grpcs://127.0.0.1:1", "rest": "https://127.0.0.1:1", "ca": "none"})
    with Client(f"file:{service.path}2", timeout=0.2, key=SECRET) as client:
        service.path.rename(f"{service.path}2")
        with pytest.raises(UnavailableError, match="in PEM") as caught:
            client.models()
    assert SECRET not in with_values(caught.value)


def with_values(error):
    """Return an error, its causes, and the values of all variables but those of the test."""
    texts, traces = [], [error.__traceback__.tb_next]
    while (error := error.__cause__ or error.__context__) is not None:
        texts += [repr(error), repr(vars(error))]
        traces.append(error.__traceback__)
    for trace in traces:
        for frame, _ in traceback.walk_tb(trace):
            values = (value for name, value in frame.f_locals.items() if name != "self")
            texts += [repr(each) for each in values]
    return "".join(texts)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        Client(f"file:{tmp_path}")


def test_a_file_that_turns_bad_is_reported(service, url):
    service.start()
    with Client(url, timeout=1) as client:
        service.path.write_text("{")
        with pytest.raises(UnavailableError, match="not an address file"):
            client.models()


def test_a_walker_that_is_closed_begins_again(settled):
    with Client(f"file:{settled.path}", timeout=60) as client:
        walker = client.stream("lj")
        walker.predict(molecule())
        walker.close()
        assert walker.predict(molecule()).energy < 1
