"""Tests that both transports use the proxy that the environment names, and only that."""

import asyncio
import base64
from contextlib import closing

import pytest

from tests.clients.http_proxy import NamingProxy
from tests.clients.serving import port_of
from tests.ports import free_port
from tests.systems import molecule
from twinforce import AsyncClient, Client, UnavailableError
from twinforce._transports.proxies import route_to
from twinforce._transports.url import parse_url

NAMES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]
SCHEMES = {"grpc": "grpc", "rest": "http"}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in [*NAMES, "grpc_proxy", "no_grpc_proxy"]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy(url):
    with closing(NamingProxy(port_of(url))) as proxy:
        yield proxy


def evaluate(url, **options):
    async def one():
        async with AsyncClient(url, **options) as client:
            return (await client.predict(molecule())).energy

    with Client(url, **options) as client, client.stream() as stream:
        energies = [client.predict(molecule()).energy, stream.predict(molecule()).energy]
    return [*energies, asyncio.run(one())]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_service_behind_a_proxy_is_reached(monkeypatch, transport, url, proxy, name):
    monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with Client(url) as client:
        expected = client.predict(molecule()).energy
    found = evaluate(f"{SCHEMES[transport]}://service.example:8000")
    assert found == [expected] * 3
    methods = {method for method, _ in proxy.requests}
    assert methods == ({"CONNECT"} if transport == "grpc" else {"GET", "POST"})
    assert all("service.example:8000" in target for _, target in proxy.requests)


def test_tls_goes_through_the_proxy_for_https(monkeypatch, transport):
    with closing(NamingProxy(None, status="403 Forbidden")) as proxy:
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        url = f"{SCHEMES[transport]}s://service.example"
        with Client(url) as client, pytest.raises(UnavailableError) as caught:
            client.models()
        assert f"through proxy 127.0.0.1:{proxy.port}" in str(caught.value)
    assert "the proxy refuses to connect" in str(caught.value)
    assert {*proxy.requests} == {("CONNECT", "service.example:443")}


def test_credentials_are_sent_and_never_shown(monkeypatch, transport, url, caplog):
    value = base64.b64encode(b"us@er:p:ss w/rd").decode()
    service = f"{SCHEMES[transport]}://service.example:8000"
    with closing(NamingProxy(port_of(url), f"Basic {value}")) as proxy:
        monkeypatch.setenv("http_proxy", f"http://us%40er:p%3Ass%20w%2Frd@127.0.0.1:{proxy.port}")
        assert len({*evaluate(service)}) == 1
        monkeypatch.setenv("http_proxy", f"http://us%40er:wrong1@127.0.0.1:{proxy.port}")
        with pytest.raises(UnavailableError, match=r"127.*the proxy refuses to connect") as caught:
            evaluate(service)
    everything = f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert "wrong1" not in everything
    assert "us@er" not in everything
    assert "us%40er" not in everything


def test_a_proxy_that_cannot_be_reached_is_named(monkeypatch, transport):
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port}")
    url = f"{SCHEMES[transport]}://service.example:8000"
    with Client(url, max_retries=0) as client, pytest.raises(UnavailableError) as caught:
        client.models()
    assert f"cannot reach {url} through proxy 127.0.0.1:{port}" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:secret@host:1080",
        "https://host:1",
        "http://host:port",
        "http://",
        "http://me:sec#secret@host:1",
        "http://me:secret@:80",
        "http://[::1",
    ],
)
def test_a_proxy_of_another_kind_is_refused(monkeypatch, transport, value):
    monkeypatch.setenv("all_proxy", value)
    url = f"{SCHEMES[transport]}://service.example:8000"
    with (
        Client(url) as client,
        pytest.raises(ValueError, match="all_proxy: expected the url of an HTTP proxy") as caught,
    ):
        client.models()
    assert "secret" not in str(caught.value)


def test_this_machine_is_reached_directly(monkeypatch, url):
    for name in NAMES[:3]:
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert len({*evaluate(url)}) == 1


DIRECT = [
    ("host.example.com", "host.example.com"),
    ("host.example.com", "Example.COM"),
    ("host.example.com", ".example.com"),
    ("example.com", ".example.com"),
    ("host.example.com", "*.example.com"),
    ("host.example.com", "other, example.com ,another"),
    ("host.example.com:8000", "example.com:8000"),
    ("host.example.com", "*"),
    ("host.example.com:8000", "*:8000"),
    ("localhost.localdomain", ""),
    ("a.localhost", ""),
    ("[::ffff:127.0.0.1]", ""),
    ("node17", "node17"),
    ("10.1.2.3", "10.1.2.3"),
    ("10.1.2.3", "10.0.0.0/8"),
    ("10.1.2.3:8000", "10.1.2.3:8000"),
    ("[fd00::17]", "fd00::/8"),
    ("[fd00::17]", "[fd00::17]"),
    ("[fd00::17]:8000", "[fd00:0::17]:8000"),
]
PROXIED = [
    ("host.example.com", ""),
    ("host.example.com", "ample.com"),
    ("host.example.com", "host.example.com.org"),
    ("host.example.com:8001", "example.com:8000"),
    ("host.example.com:8001", "*:8000"),
    ("notlocalhost", ""),
    ("10.1.2.3", "192.168.0.0/16"),
    ("10.1.2.3", "1.2.3"),
    ("[fd00::17]", "fe80::/10"),
    ("node17", "10.0.0.0/8"),
]


@pytest.mark.parametrize("scheme", ["http", "https", "grpc", "grpcs"])
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_exceptions_are_hosts_domains_ports_and_ranges(monkeypatch, scheme, name):
    monkeypatch.setenv("all_proxy", "http://proxy:3128")
    for expected, cases in ((False, DIRECT), (True, PROXIED)):
        for host, exceptions in cases:
            monkeypatch.setenv(name, exceptions)
            route = route_to(parse_url(f"{scheme}://{host}"))
            assert (route.proxy is not None) == expected, (host, exceptions)
