"""The gRPC server: inference, the Open Inference Protocol, health and reflection on one port."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.grpc_calls import GrpcCalls
from twinforce_service.transports.grpc_connections import GrpcConnections
from twinforce_service.transports.grpc_descriptors import (
    OPEN_INFERENCE_SERVICE_NAME,
    SERVICE_NAME,
    add_reflection,
)
from twinforce_service.transports.grpc_gate import GrpcGate
from twinforce_service.transports.grpc_health import HealthService
from twinforce_service.transports.grpc_servicer import GrpcServicer
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.open_inference.grpc_servicer import OpenInferenceServicer
from twinforce_service.transports.ports import address_of, listen, no_ipv6
from twinforce_service.transports.tls import Certificates

logger = logging.getLogger(__name__)

_SERVICE = pb.DESCRIPTOR.services_by_name["Inference"]

# Bytes of the headers of a call.
MAX_METADATA_BYTES = 64 * 1024

# Seconds that the last replies have to reach their clients when the server stops; calls that are
# still being received hold the server up as long.
_LAST_GRACE = 5.0
# Longest time between two looks at the connections, in s.
_CHECK_INTERVAL = 1.0
# Messages up to this multiple of their limit are read, for a refusal that says what to do.
_MAX_READ = 2
# Largest number that an option of gRPC can hold.
_UNLIMITED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class GrpcConnectionLimits:
    """The limits of connections.

    Attributes:
        max_connections: Number of open connections.
        max_per_address: Number of open connections from one address, or /64 network of IPv6.
        max_streams: Calls at a time on one connection; further ones wait at the client.
        header_timeout: Seconds until a new connection speaks HTTP/2, and to read something.
        min_rate: Bytes per second at which clients read.
        idle_timeout: Seconds after which a connection without a call is closed.
        keep_alive: Seconds between pings on a connection.
    """

    max_connections: int
    max_per_address: int
    max_streams: int
    header_timeout: float
    min_rate: float
    idle_timeout: float
    keep_alive: float


class GrpcServer:
    """The services of inference, in both protocols, of health and of reflection on one port.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        outcomes: Outcomes to note.
        intake: Intake of the calls.
        limits: Limits of a call.
        converter: Converts what is large.
        connections: Limits of connections.
        key_check: Check of keys; None means that no key is needed.
        certificates: Certificates for TLS; None means without TLS.
    """

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        outcomes: Outcomes,
        intake: Intake,
        limits: CallLimits,
        converter: Converter,
        connections: GrpcConnectionLimits,
        key_check: KeyCheck | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self._connections = GrpcConnections(
            connections.max_per_address, connections.header_timeout, connections.min_rate
        )
        self._check_interval = min(_CHECK_INTERVAL, connections.header_timeout / 4)
        self._checking: asyncio.Task[None] | None = None
        self._calls = GrpcCalls(outcomes, intake, self._connections)
        servicer = GrpcServicer(
            engine, calls, intake, limits, converter, self._connections, self._calls
        )
        open_inference = OpenInferenceServicer(
            engine, calls, intake, limits, converter, self._calls
        )
        self._health = HealthService()
        self._certificates = certificates
        self._address = ""
        self._folder: TemporaryDirectory[str] | None = None
        self._stopped: asyncio.Future[None] | None = None
        gates = None if key_check is None else [GrpcGate(key_check)]
        options = _options(limits.max_bytes, connections)
        self._server = grpc.aio.server(interceptors=gates, options=options)
        others = open_inference.handler(OPEN_INFERENCE_SERVICE_NAME)
        self._server.add_generic_rpc_handlers((_handlers(servicer), others))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, not healthy yet, and return the port.

        Raises:
            OSError: The address cannot be listened on.
        """
        await self.set_healthy(is_healthy=False)
        addresses, port = _available(host, port)
        self._address = address_of(addresses[0], port)
        with no_ipv6(host, port):
            for address in addresses:
                self._listen(address_of(address, port))
            if self._certificates is not None:
                self._listen_to_itself()
            await self._server.start()
        self._checking = asyncio.create_task(self._check_connections(port))
        return port

    async def _check_connections(self, port: int) -> None:
        """Keep the connections within their limits, for good."""
        while True:
            await asyncio.sleep(self._check_interval)
            try:
                await asyncio.to_thread(self._connections.check, port)
            except Exception:
                logger.exception("the connections of gRPC could not be checked")

    def _listen(self, address: str) -> None:
        try:
            if self._certificates is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, self._certificates.grpc_credentials())
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address} for gRPC") from error

    def _listen_to_itself(self) -> None:
        """Listen on a socket for `probe`, which has no certificate; no others can reach it."""
        self._folder = TemporaryDirectory(prefix="twinforce-")
        self._address = f"unix:{self._folder.name}/probe"
        self._server.add_insecure_port(self._address)

    async def set_healthy(self, *, is_healthy: bool) -> None:
        """Report through the health service whether requests are accepted."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME, OPEN_INFERENCE_SERVICE_NAME):
            await self._health.set(name, status.SERVING if is_healthy else status.NOT_SERVING)

    @asynccontextmanager
    async def probe(self) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
        """Yield a function that returns when the calls that have arrived before have begun.

        It calls the health service: calls begin in the order in which they arrive.
        """
        options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._address, options) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def probe() -> None:
                with suppress(grpc.aio.AioRpcError):  # it cannot reach itself: the pause must do
                    await stub.Check(health_pb2.HealthCheckRequest())

            yield probe

    def close(self, timeout: float) -> None:
        """Refuse connections and send the clients away; open calls may take `timeout` s more.

        It may be called again with a shorter time.
        """
        self._stopped = asyncio.ensure_future(self._server.stop(timeout))

    async def drain(self, timeout: float) -> None:
        """Answer the open calls within `timeout` s, and return once the port is closed."""
        assert self._stopped is not None
        await self._calls.open.drain(timeout)
        self._health.end_watches()
        await self._server.stop(_LAST_GRACE)  # for replies that are on their way
        await self._stopped
        if self._checking is not None:
            self._checking.cancel()
        if self._folder is not None:
            self._folder.cleanup()


def _available(host: str, port: int) -> tuple[list[str], int]:
    """Return the addresses of a host that can be listened on, and the port.

    Raises:
        OSError: There is none; the message says why, which that of gRPC does not.
    """
    places = []
    for listener in listen(host, port, "gRPC"):
        with listener:
            places.append(listener.getsockname())
    return [place[0] for place in places], places[0][1]


def _handlers(servicer: GrpcServicer) -> grpc.GenericRpcHandler:
    """Return the methods of the service, which get and return bytes.

    gRPC would make objects of a message in the event loop, before anything could be counted.
    """
    makers: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        method.name: makers[method.client_streaming, method.server_streaming](
            getattr(servicer, method.name)
        )
        for method in _SERVICE.methods
    }
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)


def _options(max_message_bytes: int, limits: GrpcConnectionLimits) -> list[tuple[str, int]]:
    keep_alive_ms = math.ceil(1000 * limits.keep_alive)
    return [
        # The servicer refuses what is above the limit in words that help.
        ("grpc.max_receive_message_length", min(_MAX_READ * max_message_bytes, _UNLIMITED)),
        ("grpc.max_send_message_length", -1),
        # Without this, a second service could share the port unnoticed.
        ("grpc.so_reuseport", 0),
        # The core ends calls as CANCELLED if too many of them wait for the event loop, or for too
        # many seconds. Admission, which says when to try again, refuses calls instead.
        ("grpc.server.max_pending_requests", _UNLIMITED),
        ("grpc.server.max_pending_requests_hard_limit", _UNLIMITED),
        ("grpc.server_max_unrequested_time_in_server", _UNLIMITED),
        # A connection without a call is told to go; its client makes a new one for its next call.
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", math.ceil(1000 * limits.header_timeout)),
        ("grpc.http2.settings_timeout", math.ceil(1000 * limits.header_timeout)),
        ("grpc.max_connection_idle_ms", math.ceil(1000 * limits.idle_timeout)),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", keep_alive_ms),
        ("grpc.keepalive_timeout_ms", keep_alive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Shortest interval at which clients may send pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
