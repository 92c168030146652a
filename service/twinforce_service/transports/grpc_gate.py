"""The gate before all gRPC methods: calls need a key."""

from collections.abc import AsyncIterator, Awaitable, Callable
from inspect import isasyncgenfunction
from typing import Any
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health

from twinforce_proto import ServiceError, UnauthenticatedError
from twinforce_proto.headers import REQUEST_ID
from twinforce_service.context import choose_request_id, request_id
from twinforce_service.transports.grpc_errors import abort
from twinforce_service.transports.key_check import KeyCheck

# Supervisors have no key; the answer tells nothing but that calls are accepted.
_OPEN = {f"/{health.SERVICE_NAME}/Check"}
_KEY = "authorization"


class GrpcGate(grpc.aio.ServerInterceptor):
    """Interceptor that refuses calls without a valid key, before their messages are decoded.

    Args:
        key_check: Check of keys.
    """

    def __init__(self, key_check: KeyCheck) -> None:
        self._key_check = key_check

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return what answers a call: the method itself if its key was verified before."""
        method = await continuation(handler_call_details)
        if method is None or handler_call_details.method in _OPEN:
            return method
        metadata = handler_call_details.invocation_metadata or ()
        try:
            _set_request_id(metadata)
            value = _authorization(metadata)
            if self._key_check.passes(value):
                return method
        except ServiceError as error:
            return _refusal(error)
        return _verified_first(method, lambda peer: self._key_check.verify(value, peer))


def place_of(peer: str) -> tuple[str, str]:
    """Return the address and the port in the name that gRPC gives to a peer.

    Such names are "ipv4:127.0.0.1:5000", "ipv6:%5B::1%5D:5000" and "unix:/path".
    """
    scheme, _, place = unquote(peer).partition(":")
    host, _, port = place.rpartition(":") if scheme != "unix" else (place, "", "")
    return host.strip("[]"), port


def _set_request_id(metadata: Any) -> None:
    """Use the request id of the client for an error; a method that is called sets it itself."""
    given = next((value for key, value in metadata if key == REQUEST_ID), None)
    request_id.set(choose_request_id(given if isinstance(given, str) else None))


def _authorization(metadata: Any) -> str | None:
    values = [value for key, value in metadata if key == _KEY]
    if len(values) > 1 or not all(isinstance(value, str) for value in values):
        raise UnauthenticatedError("authorization: expected one text, got several")
    return values[0] if values else None


def _refusal(error: ServiceError) -> Any:
    """Return a method of any kind that ends each call with an error and reads no message."""

    async def refuse(_: Any, context: Any) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _verified_first(method: Any, verify: Callable[[str], Awaitable[None]]) -> Any:
    """Return a method that verifies the key, and only then decodes the message and answers."""

    async def enter(context: Any) -> None:
        try:
            await verify(place_of(context.peer())[0])
        except ServiceError as error:
            await abort(context, error)

    def decoded(message: Any) -> Any:
        if method.request_streaming or method.request_deserializer is None:
            return message
        return method.request_deserializer(message)

    async def answer(message: Any, context: Any) -> Any:
        await enter(context)
        return await behavior(decoded(message), context)

    async def generate(message: Any, context: Any) -> AsyncIterator[Any]:
        await enter(context)
        async for reply in behavior(decoded(message), context):
            yield reply

    requests = "stream" if method.request_streaming else "unary"
    replies = "stream" if method.response_streaming else "unary"
    behavior = getattr(method, f"{requests}_{replies}")
    make = getattr(grpc, f"{requests}_{replies}_rpc_method_handler")
    return make(
        generate if isasyncgenfunction(behavior) else answer,
        method.request_deserializer if method.request_streaming else None,
        method.response_serializer,
    )
