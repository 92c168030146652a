"""The address file: what several servers write to it, and the secrets that one makes for itself."""

import json
import socket
import ssl
import stat
from concurrent.futures import ThreadPoolExecutor

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
