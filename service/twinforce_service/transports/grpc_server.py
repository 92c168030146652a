"""The engine over gRPC."""

import asyncio

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import (
    add_InferenceServicer_to_server,
)
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.transports.grpc_servicer import Inference
from twinforce_service.transports.ports import address_of, listen

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["Inference"].full_name

# How long calls that were told to end have to do so, in s.
_LAST_GRACE = 1.0


class GrpcServer:
    """The services on one port: inference, health and reflection.

    Args:
        engine: What answers.
        jacobians: What answers how far forces are from being a gradient.
        propagations: What moves systems.
        metrics: What counts.
        max_message_bytes: Of a request or a reply.
        keep_alive: Between two pings of a silent caller, in s.
    """

    def __init__(
        self,
        engine: Engine,
        jacobians: Jacobians,
        dynamics: Dynamics,
        metrics: Metrics,
        max_message_bytes: int,
        keep_alive: float,
    ) -> None:
        self._inference = Inference(engine, jacobians, dynamics, metrics)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(options=_options(max_message_bytes, keep_alive))
        add_InferenceServicer_to_server(self._inference, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, not yet healthy, and return the port.

        Raises:
            OSError: When somebody else does.
        """
        await self.set_healthy(is_healthy=False)
        listen(host, port, "gRPC").close()  # as what gRPC says itself helps nobody
        try:
            port = self._server.add_insecure_port(address_of(host, port))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address_of(host, port)} for gRPC") from error
        await self._server.start()
        return port

    async def set_healthy(self, *, is_healthy: bool) -> None:
        """Say over the health service whether requests are accepted."""
        status = health_pb2.HealthCheckResponse
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status.SERVING if is_healthy else status.NOT_SERVING)

    async def stop(self, timeout: float) -> None:
        """Accept no more calls, answer those that are open, and stop."""
        await self._health.enter_graceful_shutdown()
        stopped = asyncio.ensure_future(self._server.stop(timeout))
        await self._inference.drain(timeout)
        # What is open now will never end by itself: callers that watch our health.
        await self._server.stop(_LAST_GRACE)
        await stopped


def _options(max_message_bytes: int, keep_alive: float) -> list[tuple[str, int]]:
    keep_alive_ms = int(1000 * keep_alive)
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Otherwise a second service could silently share the port.
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", keep_alive_ms),
        ("grpc.keepalive_timeout_ms", keep_alive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # How often callers may ping us.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    ]
