"""The address file: what several servers write to it, and the secrets that one makes for itself."""

import json
import os
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.clients.serving import TOY, serve
from tests.conftest import free_ports
from tests.systems import molecule
from twinforce import Client, UnauthenticatedError
from twinforce_service.clusters.address_file import SharedAddressFile
from twinforce_service.clusters.certificate import make_certificate
from twinforce_service.clusters.publication import publication
from twinforce_service.settings import Settings

ENTRIES = [{"grpc": f"grpc://node:{port}"} for port in range(9000, 9016)]


def content(path):
    return json.loads(path.read_text())


def test_servers_that_start_at_once_are_all_in_the_file(tmp_path):
    path = tmp_path / "new" / "job.json"
    files = [SharedAddressFile(path, len(ENTRIES)) for _ in ENTRIES]
    with ThreadPoolExecutor(len(ENTRIES)) as pool:
        list(pool.map(lambda file, entry: file.add(entry), files, ENTRIES))
    assert sorted(each["grpc"] for each in content(path)["servers"]) == sorted(
        each["grpc"] for each in ENTRIES
    )
    assert content(path)["n_servers"] == len(ENTRIES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_servers_that_stop_are_removed_and_the_file_with_the_last(tmp_path):
    path = tmp_path / "job.json"
    file = SharedAddressFile(path, 2)
    for entry in ENTRIES[:2]:
        file.add(entry)
    file.remove(ENTRIES[0])
    assert content(path) == {"n_servers": 1, "servers": [ENTRIES[1]]}
    file.remove(ENTRIES[0])
    assert content(path)["servers"] == [ENTRIES[1]]
    file.remove(ENTRIES[1])
    assert not path.exists()
    file.remove(ENTRIES[1])


@pytest.mark.parametrize("left", ['{"n_servers": 1, "servers": [{}]}', "{", "[]", "{}"])
def test_what_a_job_before_left_is_replaced(tmp_path, left):
    path = tmp_path / "job.json"
    path.write_text(left)
    SharedAddressFile(path, 2).add(ENTRIES[0])
    assert content(path) == {"n_servers": 2, "servers": [ENTRIES[0]]}


class Listener:
    """The port of a server, which may stop in order or be killed."""

    def __init__(self, path, n_servers):
        self._port = socket.create_server(("127.0.0.1", 0))
        self.entry = {"grpc": f"grpc://127.0.0.1:{self._port.getsockname()[1]}"}
        self._file = SharedAddressFile(path, n_servers)
        self._file.add(self.entry)

    def stop(self):
        self._file.remove(self.entry)
        self._port.close()

    def kill(self):
        self._port.close()


@pytest.fixture
def start_listener(tmp_path):
    """Return a function that starts one of four servers of the file."""
    with ExitStack() as stack:

        def start(n_servers=4):
            found = Listener(tmp_path / "job.json", n_servers)
            stack.callback(found.kill)
            return found

        yield start


def entries_of(*servers):
    return [each.entry for each in servers]


@pytest.mark.parametrize("end", [Listener.stop, Listener.kill])
def test_a_server_that_starts_again_does_not_drop_the_others(start_listener, tmp_path, end):
    servers = [start_listener() for _ in range(4)]
    for _ in range(3):
        end(servers.pop(1))
        servers.append(start_listener())
        assert content(tmp_path / "job.json") == {"n_servers": 4, "servers": entries_of(*servers)}


def test_a_server_that_starts_again_does_not_make_clients_wait_for_more(start_listener, tmp_path):
    servers = [start_listener() for _ in range(4)]
    for _ in range(2):
        servers.pop().stop()
    servers.append(start_listener())
    assert content(tmp_path / "job.json") == {"n_servers": 3, "servers": entries_of(*servers)}


def test_servers_that_were_all_killed_are_replaced(start_listener, tmp_path):
    for server in [start_listener() for _ in range(4)]:
        server.kill()
    servers = [start_listener()]
    assert content(tmp_path / "job.json") == {"n_servers": 4, "servers": entries_of(*servers)}


def test_a_file_names_no_more_servers_than_share_it(start_listener, tmp_path):
    servers = [start_listener(n_servers=2) for _ in range(4)]
    assert content(tmp_path / "job.json")["servers"] == entries_of(*servers[2:])
    servers[0].stop()  # it is no longer in the file
    assert content(tmp_path / "job.json")["n_servers"] == 2


def test_a_port_that_another_server_took_over_is_named_once(tmp_path):
    path, port = tmp_path / "job.json", {"grpc": "grpc://node:1"}
    for key in ("old", "new"):
        SharedAddressFile(path, 4).add(port | {"key": key})
    assert content(path)["servers"] == [port | {"key": "new"}]


def test_nothing_is_left_when_all_servers_have_stopped(tmp_path):
    path = tmp_path / "new" / "job.json"
    for _ in range(3):
        files = [SharedAddressFile(path, len(ENTRIES)) for _ in ENTRIES]

        def come_and_go(file, entry):
            file.add(entry)
            file.remove(entry)

        with ThreadPoolExecutor(len(ENTRIES)) as pool:
            list(pool.map(come_and_go, files, ENTRIES))
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o666), lambda path: give_away(path)])
def test_entries_that_others_may_have_written_are_not_taken_over(tmp_path, change):
    path = tmp_path / "job.json"
    SharedAddressFile(path, 2).add(ENTRIES[0])
    change(path)
    SharedAddressFile(path, 2).add(ENTRIES[1])
    assert content(path) == {"n_servers": 2, "servers": [ENTRIES[1]]}


def give_away(path):
    """Make a file that of another user."""
    if os.geteuid() != 0:
        pytest.skip("only the superuser can give files away")
    os.chown(path, 12345, -1)


def test_a_server_publishes_itself_while_it_accepts_requests(tmp_path):
    path = tmp_path / "job.json"
    with serve(address_file=str(path)) as server:
        (entry,) = content(path)["servers"]
        assert (entry["grpc"], entry["rest"]) == (server.grpc_url, server.rest_url)
        assert "ca" not in entry  # it listens to this machine only
        refused = pytest.raises(UnauthenticatedError)
        with Client(server.grpc_url, timeout=60, key="") as client, refused:
            client.models()
        with Client(server.rest_url, timeout=60, key=entry["key"]) as client:
            assert client.predict(molecule(), model="lj").energy < 1
    assert not path.exists()


def test_a_server_on_the_network_makes_a_certificate_of_its_own(tmp_path):
    """Others on the network can neither read the key nor stand in for the server."""
    host, path = socket.gethostname(), tmp_path / "job.json"
    try:
        socket.getaddrinfo(host, 0)
    except OSError:
        pytest.skip(f"this machine has no address for its name {host}")
    with serve(address_file=str(path), host="0.0.0.0"):
        (entry,) = content(path)["servers"]
        assert entry["grpc"].startswith(f"grpcs://{host}:")
        assert entry["rest"].startswith(f"https://{host}:")
        for scheme in ("file+grpc", "file+rest"):
            with Client(f"{scheme}:{path}", timeout=60) as client:
                assert [each.name for each in client.models()] == ["lj"]


def test_keys_and_certificates_that_are_given_are_used(tmp_path):
    keys = tmp_path / "keys.json"
    given = free_ports(address_file=str(tmp_path / "job.json"), keys=str(keys), model={"lj": TOY})
    with publication(given) as published:
        assert published.settings == given
        published.publish("http://127.0.0.1:1", "grpc://127.0.0.1:2")
        (entry,) = content(tmp_path / "job.json")["servers"]
        assert entry.keys() == {"grpc", "rest"}


def test_secrets_are_removed_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    given = free_ports(address_file=str(tmp_path / "job.json"), host="node17")
    with publication(given) as published:
        files = [published.settings.keys, published.settings.tls_key]
        assert all(stat.S_IMODE((tmp_path / each).parent.stat().st_mode) == 0o700 for each in files)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="address-file: expected a file that can be written: "):
        serve(address_file=str(tmp_path / "file" / "job.json"))


def test_a_server_with_an_address_file_needs_no_other_protection():
    assert Settings(address_file="job.json", host="0.0.0.0").host == "0.0.0.0"
    with pytest.raises(ValueError, match="expected --keys FILE"):
        Settings(host="0.0.0.0")


@pytest.mark.parametrize(("host", "kind"), [("node17.example", "DNS"), ("10.1.2.3", "IP Address")])
def test_a_certificate_names_the_host(tmp_path, host, kind):
    certificate, key = make_certificate(tmp_path, host)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    trust = ssl.create_default_context(cafile=str(certificate))
    (found,) = trust.get_ca_certs()
    assert found["subjectAltName"] == ((kind, host),)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_missing_program_for_certificates_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="expected --tls-certificate and --tls-key, or the program"):
        make_certificate(tmp_path, "node17")
    program = tmp_path / "openssl"
    program.write_text("#!/bin/sh\necho no entropy >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(OSError, match="no entropy"):
        make_certificate(tmp_path, "node17")
