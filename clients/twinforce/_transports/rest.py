"""Calls over HTTP, blocking and with asyncio, with protobuf or JSON bodies."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Generator
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx2
from google.protobuf.message import DecodeError, Message

from twinforce._connections.closer import Closer
from twinforce._connections.ownership import abandon
from twinforce._options import Encoding
from twinforce._transports.access import Access
from twinforce._transports.identity import client_id
from twinforce._transports.json_bodies import body_of, line_message, reply_message
from twinforce._transports.proxies import Route, route_to
from twinforce._transports.rest_errors import reported_error, service_error
from twinforce._transports.rest_pools import async_pool_to, host_header, name_for_tls, pool_to
from twinforce._transports.transport import KEEP_ALIVE, Call, Method, deadline_exceeded
from twinforce._transports.url import Url
from twinforce._transports.watch import watch_id
from twinforce_proto import PredictionError, ServiceError
from twinforce_proto.headers import (
    CLIENT_ID,
    JSON,
    NORMAL_URGENCY,
    PROTOBUF,
    TIMEOUT,
    URGENCY,
    WATCH_ID,
)
from twinforce_proto.v1 import inference_pb2 as pb

# Calls of an asyncio client that are open at once. The pool of connections looks through all of
# them for each: 256 would take twice the time for each call, thousands would take minutes.
_MOST_OPEN_CALLS = 128

_MEDIA_TYPES = {"protobuf": PROTOBUF, "json": JSON}
_REPLIES: dict[Method, type[Message]] = {
    "Predict": pb.PredictReply,
    "Nonconservativity": pb.NonconservativityReply,
    "ListModels": pb.ListModelsReply,
    "GetModel": pb.ModelInfo,
    "GetStatus": pb.ServiceStatus,
}
# Calls about no model in particular, and their paths.
_PATHS: dict[Method, str] = {"ListModels": "models", "GetStatus": "status"}


class RestTransport:
    """Requests over a pool of persistent connections."""

    def __init__(self, url: Url, encoding: Encoding, urgency: int, access: Access) -> None:
        self._url = url
        self._route = route_to(url)
        self._encoding: Encoding = encoding
        self._urgency = urgency
        self._access = access
        transport = pool_to(self._route, access)
        self._http = httpx2.Client(transport=transport, headers=_headers(url, urgency))
        self._streams: WeakValueDictionary[int, RestTransport] = WeakValueDictionary()
        self._close = Closer(self, self._http.close)

    def send(self, call: Call) -> Message:
        """Send a call and wait for the reply."""
        try:
            reply = self._http.request(**_request(call, self._url, self._encoding, self._access))
        except httpx2.HTTPError as error:
            raise service_error(error, self._route, call.timeout) from error
        return _reply(call, reply, self._route)

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        pid, reply, lines = os.getpid(), None, None
        try:
            request = self._http.build_request(
                **_request(call, self._url, self._encoding, self._access)
            )
            reply = self._http.send(request, stream=True)
            if not reply.is_success:
                reply.read()
                raise reported_error(reply, self._route)
            lines = reply.iter_lines()
            for line in lines:
                yield line_message(call.method, line)
        except httpx2.HTTPError as error:
            raise service_error(error, self._route, call.timeout) from error
        finally:
            if os.getpid() != pid:
                abandon((reply, lines))
            elif reply is not None:
                reply.close()

    def stream(self) -> "RestStream":
        """Return a transport for the calls of one walker, which uses a connection of its own.

        An interrupted call may leave a lock held that all calls of a pool need.
        """
        transport = RestTransport(self._url, self._encoding, self._urgency, self._access)
        self._streams[id(transport)] = transport
        return RestStream(transport)

    def close(self) -> None:
        """Close the connections, and those of the streams."""
        self._close()
        for reference in self._streams.valuerefs():
            if (transport := reference()) is not None:
                transport.close()


class RestStream:
    """The calls of one walker, each sent as a separate request."""

    def __init__(self, transport: RestTransport) -> None:
        self._transport = transport
        self._last_request = pb.PredictRequest()

    def send(self, call: Call) -> Message:
        """Send a message and wait for its reply."""
        try:
            reply = self._transport.send(_as_predict_call(call, self._last_request))
        except ServiceError as error:
            raise error.at(None) from error  # as over gRPC, where a message holds one system
        return _as_stream_reply(reply)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class AsyncRestTransport:
    """The asyncio counterpart of `RestTransport`."""

    def __init__(self, url: Url, encoding: Encoding, urgency: int, access: Access) -> None:
        self._url = url
        self._route = route_to(url)
        self._encoding: Encoding = encoding
        self._access = access
        transport = async_pool_to(self._route, access)
        self._http = httpx2.AsyncClient(transport=transport, headers=_headers(url, urgency))
        self._turns = asyncio.Semaphore(_MOST_OPEN_CALLS)

    async def send(self, call: Call) -> Message:
        """Send a call and wait for the reply; calls beyond the most that may be open wait first."""
        try:
            async with asyncio.timeout(call.timeout), self._turns:
                reply = await self._http.request(
                    **_request(call, self._url, self._encoding, self._access)
                )
        except TimeoutError:
            raise deadline_exceeded(self._route, call.timeout) from None
        except httpx2.HTTPError as error:
            raise service_error(error, self._route, call.timeout) from error
        return _reply(call, reply, self._route)

    async def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        pid, reply = os.getpid(), None
        try:
            request = self._http.build_request(
                **_request(call, self._url, self._encoding, self._access)
            )
            reply = await self._http.send(request, stream=True)
            if not reply.is_success:
                await reply.aread()
                raise reported_error(reply, self._route)
            async for line in reply.aiter_lines():
                yield line_message(call.method, line)
        except httpx2.HTTPError as error:
            raise service_error(error, self._route, call.timeout) from error
        finally:
            if os.getpid() == pid and reply is not None:
                await reply.aclose()

    def stream(self) -> "AsyncRestStream":
        """Return a transport for the calls of one walker."""
        return AsyncRestStream(self)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class AsyncRestStream:
    """The asyncio counterpart of `RestStream`."""

    def __init__(self, transport: AsyncRestTransport) -> None:
        self._transport = transport
        self._last_request = pb.PredictRequest()

    async def send(self, call: Call) -> Message:
        """Send a message and wait for its reply."""
        try:
            reply = await self._transport.send(_as_predict_call(call, self._last_request))
        except ServiceError as error:
            raise error.at(None) from error  # as over gRPC, where a message holds one system
        return _as_stream_reply(reply)

    async def close(self) -> None:
        """Do nothing: no stream is open."""


def _headers(url: Url, urgency: int) -> dict[str, str]:
    """Return the headers of all requests, without those that the service would assume."""
    named = {} if urgency == NORMAL_URGENCY else {URGENCY: str(urgency)}
    return {CLIENT_ID: client_id()} | named | host_header(url)


def _request(call: Call, url: Url, encoding: Encoding, access: Access) -> dict[str, Any]:
    """Return the arguments of the HTTP request that makes a call."""
    headers = {"accept": _MEDIA_TYPES[encoding], WATCH_ID: watch_id(call.n_lost)}
    headers |= access.headers | call.trace
    if call.timeout is not None:
        # The service may drop the request once the client no longer waits for the reply.
        headers[TIMEOUT] = repr(call.timeout)
    connect = min(KEEP_ALIVE.connect_to(url), call.timeout or KEEP_ALIVE.connect)
    timeout = httpx2.Timeout(call.timeout, connect=connect)
    options: dict[str, Any] = {"method": "GET", "headers": headers, "timeout": timeout}
    options["extensions"] = name_for_tls(url)
    message: Any = call.message
    if call.method in _PATHS:
        return options | {"url": f"{url.location}/v1/{_PATHS[call.method]}"}
    model = f"{url.location}/v1/models/{quote(message.model, safe='')}"
    if call.method == "GetModel":
        return options | {"url": model}
    is_json = encoding == "json"
    return options | {
        "method": "POST",
        "url": f"{model}/{call.method.lower()}",
        "headers": headers | {"content-type": _MEDIA_TYPES[encoding]},
        "content": json.dumps(body_of(message)) if is_json else message.SerializeToString(),
    }


def _reply(call: Call, reply: httpx2.Response, route: Route) -> Message:
    """Return the message in an HTTP reply, or raise the error that it reports."""
    if not reply.is_success:
        raise reported_error(reply, route)
    media_type = reply.headers.get("content-type", "").partition(";")[0]
    try:
        if media_type == _MEDIA_TYPES["protobuf"]:
            return _REPLIES[call.method].FromString(reply.content)
        return reply_message(call.method, reply.json())
    except (DecodeError, ValueError) as error:
        text = f"{reply.url} answered with {media_type or 'bytes'} that cannot be decoded: {error}"
        raise PredictionError(text) from error


def _as_predict_call(call: Call, last: pb.PredictRequest) -> Call:
    """Return the `Predict` call for a message of a stream.

    Args:
        call: The message, which leaves out what did not change since the last one.
        last: The last complete request, updated in place.
    """
    message: Any = call.message
    last.model = message.model or last.model
    if message.HasField("reply_dtype"):
        last.reply_dtype = message.reply_dtype
    if message.outputs:
        last.outputs[:] = message.outputs
    if message.HasField("system"):
        del last.systems[:]
        last.systems.append(message.system)
    else:
        _move(last.systems[0], message.move)
    return Call("Predict", last, call.timeout, call.n_lost, call.trace)


def _move(system: pb.System, move: pb.Move) -> None:
    system.positions.CopyFrom(move.positions)
    if move.HasField("cell"):
        system.cell.CopyFrom(move.cell)


def _as_stream_reply(message: Any) -> pb.StreamReply:
    if len(message.predictions) != 1:
        got = len(message.predictions)
        raise PredictionError(f"reply: expected one prediction, got {got}")
    return pb.StreamReply(
        prediction=message.predictions[0],
        provenance=message.provenance if message.HasField("provenance") else None,
        timings=message.timings if message.HasField("timings") else None,
    )
