"""Calls over gRPC, blocking and with asyncio."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from google.protobuf.message import Message

from twinforce._connections.closer import Closer
from twinforce._connections.forks import open_run, register_channel, waits_for_replies
from twinforce._connections.ownership import abandon
from twinforce._transports.access import Access
from twinforce._transports.grpc_errors import service_error
from twinforce._transports.grpc_loading import (
    check_asyncio,
    check_process,
    grpc,
    outlive_exit,
    own,
)
from twinforce._transports.grpc_stream import (
    GrpcStream,
    Metadata,
    stream_ended,
    traced_message,
)
from twinforce._transports.identity import client_id
from twinforce._transports.proxies import Route, route_to
from twinforce._transports.transport import KEEP_ALIVE, Call, deadline_exceeded
from twinforce._transports.url import Url
from twinforce_proto import RequestCancelledError, headers
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

# gRPC sets TCP_NODELAY by itself. The short back-off finds a restarted service within a second.
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Pings go on while nothing else is sent: between updates of a run, and between calls.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # The thread that reads a reply waits for it directly instead of being woken by a thread of
    # gRPC, which halves the time of a call. The name is in `grpc.experimental.ChannelOptions`.
    ("SingleThreadedUnaryStream", 1),
    # Channels to the same address share a connection otherwise, also one that was inherited by a
    # fork: the child would wait for replies that its parent reads.
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcTransport:
    """Unary calls, and streams beside them, over one channel."""

    def __init__(self, url: Url, urgency: int, access: Access) -> None:
        self._route = route_to(url)
        self._metadata = partial(_metadata, urgency, access)
        channel = _open_channel(grpc, self._route, access)
        register_channel(channel)
        self._stub = InferenceStub(channel)
        self._close = Closer(self, channel.close)

    def send(self, call: Call) -> Message:
        """Send a call and wait for the reply."""
        method = getattr(self._stub, call.method)
        try:
            return _message(
                method(call.message, timeout=call.timeout, metadata=self._metadata(call))
            )
        except grpc.RpcError as error:
            raise service_error(error, self._route, call.timeout) from error

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        pid = os.getpid()
        replies = getattr(self._stub, call.method)(
            call.message, timeout=call.timeout, metadata=self._metadata(call)
        )
        outlive_exit(replies)
        try:
            with open_run():
                for reply in replies:  # noqa: UP028
                    yield reply
        except grpc.RpcError as error:
            raise service_error(error, self._route, call.timeout) from error
        finally:
            replies.cancel() if os.getpid() == pid else abandon(replies)

    def stream(self) -> GrpcStream:
        """Return a transport for the calls of one walker."""
        return GrpcStream(self._stub, self._route, self._metadata)

    def close(self) -> None:
        """Close the channel."""
        self._close()


waits_for_replies(GrpcTransport.send.__code__)

# The canceled calls of a channel have ended after a millisecond, and later on a busy machine.
_LAST_EVENTS_S = 0.05


class AsyncGrpcTransport:
    """The asyncio counterpart of `GrpcTransport`."""

    def __init__(self, url: Url, urgency: int, access: Access) -> None:
        self._route = route_to(url)
        self._metadata = partial(_metadata, urgency, access)
        check_asyncio(url)
        self._channel = _open_channel(grpc.aio, self._route, access)
        own(self._channel, self)
        self._stub = InferenceStub(self._channel)

    async def send(self, call: Call) -> Message:
        """Send a call and wait for the reply."""
        method = getattr(self._stub, call.method)
        try:
            with _cancellation_by_close(self._route):
                return _message(
                    await method(call.message, timeout=call.timeout, metadata=self._metadata(call))
                )
        except grpc.RpcError as error:
            raise service_error(error, self._route, call.timeout) from error

    async def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        pid = os.getpid()
        replies = getattr(self._stub, call.method)(
            call.message, timeout=call.timeout, metadata=self._metadata(call)
        )
        try:
            with _cancellation_by_close(self._route):
                async for reply in replies:
                    yield reply
        except grpc.RpcError as error:
            raise service_error(error, self._route, call.timeout) from error
        finally:
            if os.getpid() == pid:
                replies.cancel()

    def stream(self) -> "AsyncGrpcStream":
        """Return a transport for the calls of one walker."""
        return AsyncGrpcStream(self._stub, self._route, self._metadata)

    async def close(self) -> None:
        """Close the channel, and return once its threads have told this loop the last events.

        gRPC would tell them to the next event loop otherwise, which then reports an error.
        """
        await self._channel.close()
        await asyncio.sleep(_LAST_EVENTS_S)


class AsyncGrpcStream:
    """The asyncio counterpart of `GrpcStream`."""

    def __init__(self, stub: InferenceStub, route: Route, metadata: Callable[[], Metadata]) -> None:
        self._stub = stub
        self._route = route
        self._metadata = metadata
        self._call: Any = None

    async def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; any error closes the stream."""
        try:
            async with asyncio.timeout(call.timeout):
                with _cancellation_by_close(self._route):
                    return await self._exchange(call)
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise deadline_exceeded(self._route, call.timeout) from None
            if isinstance(error, grpc.RpcError):
                raise service_error(error, self._route, call.timeout) from error
            raise

    async def close(self) -> None:
        """End the stream, if there is one."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _exchange(self, call: Call) -> Message:
        if self._call is None:
            self._call = self._stub.PredictStream(metadata=self._metadata())
        try:
            await self._call.write(traced_message(call))
        except (asyncio.InvalidStateError, grpc.RpcError) as error:  # the stream has ended
            raise stream_ended(self._route) from error
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise stream_ended(self._route)
        return _message(reply)


@contextmanager
def _cancellation_by_close(route: Route) -> Iterator[None]:
    """Raise an error if gRPC cancels a call whose task nobody canceled: the channel was closed."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RequestCancelledError(f"the call of {route} was canceled: closed") from error


def _metadata(urgency: int, access: Access, call: Call | None = None) -> Metadata:
    """Return the metadata of a call, without those that the service would assume.

    Args:
        urgency: Urgency of all calls.
        access: Key of the client.
        call: The call; None for a stream, each message of which may belong to another span.
    """
    named = {} if urgency == headers.NORMAL_URGENCY else {headers.URGENCY: str(urgency)}
    trace = {} if call is None else call.trace
    return tuple(({headers.CLIENT_ID: client_id()} | named | access.headers | trace).items())


def _open_channel(module: Any, route: Route, access: Access) -> Any:
    url = route.url
    check_process(url)
    options = (*_OPTIONS, *_keep_alive(url), *_proxy_options(route), *_name_options(url))
    if url.is_secure:
        credentials = grpc.ssl_channel_credentials(access.trusted(), *access.own())
        return module.secure_channel(url.target, credentials, options=options)
    return module.insecure_channel(url.target, options=options)


def _proxy_options(route: Route) -> tuple[tuple[str, int | str], ...]:
    """Return the options that use the proxy of the route, whatever gRPC reads itself."""
    if route.proxy is None:
        return (("grpc.enable_http_proxy", 0),)
    return (("grpc.http_proxy", route.proxy.url),)


def _name_options(url: Url) -> tuple[tuple[str, str], ...]:
    """Return the options that name the host, and compare certificates with it, at an address."""
    return (("grpc.default_authority", url.netloc),) if url.address else ()


def _keep_alive(url: Url) -> tuple[tuple[str, int], ...]:
    """Return the options that notice a dead connection; gRPC sets `TCP_USER_TIMEOUT` by them."""
    return (
        ("grpc.keepalive_time_ms", int(1000 * KEEP_ALIVE.interval)),
        ("grpc.keepalive_timeout_ms", int(1000 * KEEP_ALIVE.patience)),
        # Of the pings that measure the bandwidth, beside which no others are sent.
        ("grpc.http2.ping_timeout_ms", int(1000 * KEEP_ALIVE.patience)),
        ("grpc.min_reconnect_backoff_ms", int(1000 * KEEP_ALIVE.connect_to(url))),
    )


def _message(reply: object) -> Message:
    assert isinstance(reply, Message)
    return reply
