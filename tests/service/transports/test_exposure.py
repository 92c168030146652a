"""The addresses, names and ports that the service answers on, and to whom."""

import httpx2
import pytest

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from tests.service.callers.making import add_key
from twinforce_service.embedded import run_in_thread
from twinforce_service.flags import parse_settings


def serve(**settings):
    return run_in_thread(free_ports(**settings), lambda: {"soft": loaded(Soft())})


def status(url, host, path="/v1/models"):
    return httpx2.get(f"{url}{path}", headers={"host": host}).status_code


def test_a_service_of_this_machine_answers_to_the_names_of_this_machine_only():
    with serve() as server:
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1234", "[::1]:8000", "localhost."):
            assert status(server.rest_url, host) == 200, host
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "[::2]",
            "",
            "localhost.evil",
            "::1",
        ):
            assert status(server.rest_url, host) == 421, host
        assert status(server.rest_url, "evil.example", "/health/live") == 200
        reply = httpx2.get(f"{server.rest_url}/v1/models", headers={"host": "evil.example"})
        expected = "expected 127.0.0.1, [::1], localhost (see --trusted-hosts), got 'evil.example'"
        assert expected in reply.json()["detail"]


def test_trusted_hosts_are_those_that_are_given():
    with serve(trusted_hosts="api.example.com, *.cluster.local") as server:
        for host in ("api.example.com", "API.example.com:443", "a.b.cluster.local:1"):
            assert status(server.rest_url, host) == 200, host
        for host in ("localhost", "example.com", "cluster.local", "xcluster.local"):
            assert status(server.rest_url, host) == 421, host
    with serve(trusted_hosts="*") as server:
        assert status(server.rest_url, "evil.example") == 200


def test_a_service_of_the_network_answers_to_all_names():
    with serve(host="0.0.0.0", insecure=True) as server:
        url = server.rest_url.replace("0.0.0.0", "127.0.0.1")
        assert status(url, "evil.example") == 200


def test_monitoring_has_a_port_of_its_own_without_keys(tmp_path):
    key = add_key(tmp_path / "keys.json", "alice", "--scope", "admin")
    with serve(keys=str(tmp_path / "keys.json"), metrics_port=0) as server:
        for path in ("/metrics", "/health/live", "/health/ready"):
            assert httpx2.get(f"{server.metrics_url}{path}").status_code == 200
        for path in ("/v1/models", "/docs", "/openapi.json", "/v1/requests/x"):
            assert httpx2.get(f"{server.metrics_url}{path}").status_code == 404
        assert status(server.metrics_url, "evil.example", "/metrics") == 421
        headers = {"authorization": f"Bearer {key}"}
        with httpx2.Client(base_url=server.rest_url, headers=headers) as http:
            assert http.get("/metrics").status_code == 404
            assert http.get("/health/ready").status_code == 200
            assert "/metrics" not in http.get("/openapi.json").text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{server.metrics_url}/health/live")


def test_monitoring_on_the_network_answers_to_all_names():
    """Probes and Prometheus name the address of a pod, whatever the names of the service are."""
    with serve(metrics_port=0, metrics_host="0.0.0.0", trusted_hosts="api.example.com") as server:
        url = server.metrics_url.replace("0.0.0.0", "127.0.0.1")
        assert status(url, "10.1.2.3:8002", "/health/ready") == 200
        assert status(url, "10.1.2.3:8002", "/metrics") == 200
        assert status(server.rest_url, "10.1.2.3:8000") == 421


def test_a_port_for_monitoring_that_is_taken_is_named():
    with serve(metrics_port=0) as server:
        taken = server.metrics_url.rpartition(":")[2]
        with pytest.raises(OSError, match=rf":{taken} for metrics: .*see --metrics-host and "):
            serve(metrics_port=int(taken))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "my-workstation"])
def test_the_network_is_served_with_keys_or_certificates_or_knowingly(host, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(["--host", host])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(
        "host: expected --keys FILE, made by `twinforce-server keys add`, to listen on "
        f"{host}, or --insecure to let everyone on the network use the service"
    )
    parse_settings(["--host", host, "--insecure"])
    parse_settings(["--host", host, "--keys", "keys.json"])
    tls = ["--tls-certificate", "a", "--tls-key", "b", "--tls-client-ca", "c"]
    parse_settings(["--host", host, *tls])
    with pytest.raises(SystemExit, match="2"):
        parse_settings(["--host", host, *tls[:4]])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_this_machine_is_served_without_keys(host):
    assert parse_settings(["--host", host]).keys == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tls-certificate", "a"], "tls-key: expected a file, as certificate and key"),
        (["--tls-key", "a"], "tls-certificate: expected a file, as certificate and key"),
        (["--tls-client-ca", "a"], "tls-client-ca: expected --tls-certificate with it, got none"),
        (["--metrics-port", "70000"], "metrics-port: "),
    ],
)
def test_incomplete_certificates_are_reported(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_settings(arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_addresses_behind_a_proxy_cannot_be_made_up(tmp_path):
    """A header of the caller does not choose the address that failed attempts count for."""
    add_key(tmp_path / "keys.json", "alice")
    with serve(keys=str(tmp_path / "keys.json")) as server:
        found = []
        for number in range(11):
            headers = {
                "authorization": f"Bearer tf_0123456789_{number:043d}",
                "x-forwarded-for": f"192.0.2.{number}",
            }
            found.append(httpx2.get(f"{server.rest_url}/v1/models", headers=headers))
        assert [reply.status_code for reply in found] == [401] * 10 + [429]
        assert int(found[-1].headers["retry-after"]) >= 1
