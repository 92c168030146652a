"""Tests of calls that a service is too old to have."""

from contextlib import closing

import grpc
import pytest

from tests.clients.refusing import RefusingServer
from tests.clients.serving import port_of
from twinforce import Client, ServiceError
from twinforce._transports import rest

OLD = "GetStatus: the service does not have this call: expected TwinForce 0.2.0 or later"


@pytest.mark.parametrize("has_answered", [False, True])
def test_an_old_service_without_the_call_is_not_waited_for_over_grpc(server, has_answered):
    with (
        closing(RefusingServer(port_of(server.grpc_url), [])) as old,
        Client(f"grpc://127.0.0.1:{old.port}", timeout=None) as client,
    ):
        if has_answered:
            client.models()
        old.refuse(*[(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")] * 100)
        n_calls = old.n_calls
        with pytest.raises(ServiceError) as caught:
            client.status()
        assert (type(caught.value), str(caught.value)) == (ServiceError, OLD)
        assert old.n_calls == n_calls + 1


def test_a_grpc_server_refuses_unknown_methods_as_clients_expect(server):
    address = server.grpc_url.removeprefix("grpc://")
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/twinforce.v1.Inference/GetOlder")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "Method not found!"


def test_an_old_service_without_the_call_is_not_waited_for_over_rest(server, monkeypatch):
    monkeypatch.setitem(rest._PATHS, "GetStatus", "older")
    with Client(server.rest_url, timeout=None) as client, pytest.raises(ServiceError) as caught:
        client.status()
    assert (type(caught.value), str(caught.value)) == (ServiceError, OLD)
