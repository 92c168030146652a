"""Tests that the host means the same for REST and gRPC."""

import contextlib
import socket
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from twinforce import Client
from twinforce_service.embedded import run_in_thread
from twinforce_service.transports.ports import address_of

IPV4, IPV6 = "127.0.0.1", "::1"
TWO_FAMILIES = "two-families.test"


def has_ipv6():
    with contextlib.suppress(OSError), socket.create_server((IPV6, 0), family=socket.AF_INET6):
        return True
    return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture(autouse=True)
def a_name_of_two_addresses(monkeypatch):
    usual = socket.getaddrinfo

    def getaddrinfo(host, *args, **options):
        if host != TWO_FAMILIES:
            return usual(host, *args, **options)
        return usual(IPV6, *args, **options) + usual(IPV4, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def answers(url, address):
    """Return True if a client at this address of the service is answered."""
    scheme, port = urlsplit(url).scheme, urlsplit(url).port
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=5.0).close()
        with Client(f"{scheme}://{address_of(address, port)}") as client:
            return [info.name for info in client.models()] == ["soft"]
    return False


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", {IPV4}),
        ("0.0.0.0", {IPV4}),
        ("::", {IPV4, IPV6}),
        ("::1", {IPV6}),
        ("[::1]", {IPV6}),
        (TWO_FAMILIES, {IPV4, IPV6}),
    ],
)
def test_both_transports_listen_on_the_same_addresses(host, expected):
    with run_in_thread(
        free_ports(host=host, insecure=True), lambda: {"soft": loaded(Soft())}
    ) as server:
        for url in (server.rest_url, server.grpc_url):
            assert {each for each in (IPV4, IPV6) if answers(url, each)} == expected
        port = urlsplit(server.rest_url).port
        metrics = {
            each
            for each in expected
            if httpx2.get(f"http://{address_of(each, port)}/metrics").status_code == 200
        }
        assert metrics == expected


def test_an_address_that_this_machine_lacks_is_left_out_if_another_works(monkeypatch):
    usual = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **options: (
            usual("2001:db8::1", *args, **options) + usual(IPV4, *args, **options)
            if host == TWO_FAMILIES
            else usual(host, *args, **options)
        ),
    )
    settings = free_ports(host=TWO_FAMILIES, insecure=True)
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        assert answers(server.rest_url, IPV4)
        assert answers(server.grpc_url, IPV4)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_cannot_be_listened_on_is_an_error_that_names_the_setting(host):
    with pytest.raises(OSError, match=rf"cannot listen on {host}:0 for REST: .*see --host"):
        run_in_thread(free_ports(host=host, insecure=True), lambda: {"soft": loaded(Soft())})
