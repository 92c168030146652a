"""Tests that a request without a key is known by the address that it comes from."""

from contextvars import copy_context

import pytest

from twinforce_service import context
from twinforce_service.callers.caller import UNKNOWN, Caller, caller_at


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:DB8::0001", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("/run/twinforce.sock", "/run/twinforce.sock"),
    ],
)
def test_a_caller_without_a_key_is_named_after_its_address(host, name):
    assert caller_at(host) == Caller(name)


def test_connections_of_one_address_belong_to_one_caller():
    def seen(port):
        context.set_peer("10.0.0.1", port)
        return context.caller.get(), context.connection.get()

    one, other = (copy_context().run(seen, port) for port in (5000, 5001))
    assert one[0] == other[0] == Caller("10.0.0.1")
    assert one[1] != other[1]
    assert context.caller.get() is UNKNOWN


def test_the_connections_of_one_client_count_as_one_if_it_gives_its_name():
    def seen(port, client_id):
        context.set_peer("10.0.0.1", port, client_id)
        return context.connection.get()

    def connections(client_id):
        return {copy_context().run(seen, port, client_id) for port in (5000, 5001)}

    assert len(connections("a-1")) == 1
    assert connections("a-1") != connections("a-2")
    for client_id in (None, "", "a b", "a" * 1000, b"a"):
        assert connections(client_id) == {"10.0.0.1:5000", "10.0.0.1:5001"}


def test_the_owner_of_a_key_keeps_its_name():
    def seen():
        context.caller.set(Caller("ada"))
        context.set_peer("10.0.0.1", 5000)
        return context.caller.get().name

    assert copy_context().run(seen) == "ada"
