"""The HTTP servers: that of the REST API, and that of health and metrics."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from typing import cast

import uvicorn
from fastapi import FastAPI

from twinforce_service.access import AccessControl
from twinforce_service.callers.allowances import Allowances
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.engine.engine import OwnedEngine
from twinforce_service.hosts import is_loopback, trusted_hosts
from twinforce_service.metrics import Metrics
from twinforce_service.settings import Settings
from twinforce_service.transports.accepting import ACCEPTED_AT_ONCE
from twinforce_service.transports.ports import BACKLOG, listen
from twinforce_service.transports.rest.app import create_app, create_monitoring_app
from twinforce_service.transports.rest.connections import (
    BoundedProtocol,
    ConnectionLimits,
    protocol_for,
)

# Seconds to send the last answers about health and metrics.
_MONITORING_TIME = 1.0


class RestServer(uvicorn.Server):
    """Uvicorn without its signal handlers, as this module handles signals."""

    async def startup(self, sockets: "list[socket.socket] | None" = None) -> None:
        """Listen, with a longer queue than the number of connections accepted in one go."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)

    def stop(self, timeout: float) -> None:
        """Close connections after their replies, and after so many seconds at the latest.

        It may be called again with a shorter time.
        """
        if not self.should_exit:
            self.config.timeout_graceful_shutdown = math.ceil(timeout)
            self.should_exit = True
        asyncio.get_running_loop().call_later(timeout, self._drop_connections)

    def _drop_connections(self) -> None:
        """End all connections; the calls of their clients end then."""
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.drop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are."""
        yield


def make_app(
    engine: OwnedEngine,
    calls: Calls,
    metrics: Metrics,
    outcomes: Outcomes,
    intake: Intake,
    limits: CallLimits,
    converter: Converter,
    allowances: Allowances,
    access: AccessControl,
    settings: Settings,
) -> FastAPI:
    """Return the application of the REST API."""
    return create_app(
        engine,
        calls,
        metrics,
        outcomes,
        intake,
        limits,
        converter,
        allowances,
        access.key_check,
        trusted_hosts(settings.trusted_hosts, settings.host),
        has_metrics=settings.metrics_port is None,
        has_page=settings.page,
    )


def make_rest_server(app: FastAPI, access: AccessControl, settings: Settings) -> RestServer:
    """Return the server of the REST API."""
    config = _config(app, settings)
    if access.certificates is not None:
        config.load()
        config.ssl = access.certificates.context
    return RestServer(config)


async def serve_metrics(
    engine: OwnedEngine,
    metrics: Metrics,
    intake: Intake,
    settings: Settings,
    stack: contextlib.AsyncExitStack,
) -> int | None:
    """Serve health and metrics on a port of their own, if they have one; return the port.

    Args:
        engine: Evaluates systems.
        metrics: Metrics to show.
        intake: Intake of the calls.
        settings: Settings of the service.
        stack: Context at whose end the server stops.
    """
    if settings.metrics_port is None:
        return None
    listeners = listen(settings.metrics_host, settings.metrics_port, "metrics")
    for listener in listeners:
        stack.enter_context(listener)
    # Those who monitor from elsewhere, such as probes and Prometheus, name the address of a pod.
    names = settings.trusted_hosts if is_loopback(settings.metrics_host) else ""
    hosts = trusted_hosts(names, settings.metrics_host)
    app = create_monitoring_app(engine, metrics, intake, hosts)
    server = RestServer(_config(app, settings))
    serving = asyncio.create_task(server.serve(listeners))

    async def stop() -> None:
        server.stop(_MONITORING_TIME)
        await serving

    stack.push_async_callback(stop)
    port: int = listeners[0].getsockname()[1]
    return port


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    limits = ConnectionLimits(
        settings.max_connections,
        settings.max_connections_per_address,
        settings.header_timeout,
        settings.min_rate,
    )
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", protocol_for(limits)),
        access_log=False,
        backlog=ACCEPTED_AT_ONCE,
        lifespan="off",
        log_config=None,
        proxy_headers=False,  # anyone on this machine could choose an address otherwise
        server_header=False,
        timeout_keep_alive=math.ceil(settings.keep_alive),
        ws="none",
    )
