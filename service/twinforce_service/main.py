"""The server process: build all objects, wire them, and start and stop the service."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from twinforce_proto import ModelInfo, ServiceError, UnavailableError
from twinforce_service import logs
from twinforce_service.access import AccessControl
from twinforce_service.callers import command as keys_command
from twinforce_service.callers.allowances import Allowances
from twinforce_service.callers.key_file import KeyFileError
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import describe_calls
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.clusters import command as slurm_command
from twinforce_service.clusters.drain import DrainTime
from twinforce_service.clusters.publication import Publication, publication
from twinforce_service.downloads import command as download_command
from twinforce_service.engine.engine import OwnedEngine
from twinforce_service.engines import LoadModels, make_engine
from twinforce_service.environments import command
from twinforce_service.flags import file_of_keys, folder_of_environments, parse_settings
from twinforce_service.metrics import Metrics
from twinforce_service.servers import (
    REPLY_TIME,
    RestServer,
    make_app,
    make_rest_server,
    serve_metrics,
)
from twinforce_service.settings import Settings
from twinforce_service.tracing.export import make_traces
from twinforce_service.transports.accepting import AcceptFailures
from twinforce_service.transports.grpc_server import GrpcConnectionLimits, GrpcServer
from twinforce_service.transports.ports import address_of, allow_connections, listen
from twinforce_service.version import service_version

logger = logging.getLogger(__name__)

# Seconds between checks whether the engine is ready, and later whether it is alive.
_START_INTERVAL, _WATCH_INTERVAL = 0.02, 0.25
# Seconds to take the last calls before the engine stops.
_SETTLE_TIME = 10.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The addresses and models of a service that accepts requests.

    Attributes:
        rest_url: Address of the REST API, such as "http://127.0.0.1:8000".
        grpc_url: Address of the gRPC API, such as "grpc://127.0.0.1:8001".
        models: Served models.
        metrics_url: Address of health and metrics, if they have one of their own.
    """

    rest_url: str
    grpc_url: str
    models: tuple[ModelInfo, ...]
    metrics_url: str | None = None

    def lines(self) -> str:
        """Return the lines that the server prints once it accepts requests."""
        models = ", ".join(f"{each.name} ({each.dtype}, {each.device})" for each in self.models)
        addresses = f"REST  {self.rest_url}\ngRPC  {self.grpc_url}\n"
        if self.metrics_url is not None:
            addresses += f"metrics  {self.metrics_url}\n"
        return f"TwinForce {service_version()} serves {models}\n{addresses}"


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[[Ready], None],
    load_models: LoadModels | None = None,
    drain_time: DrainTime | None = None,
) -> None:
    """Serve until `stop` is set, then finish all accepted requests.

    Args:
        settings: Settings of the service.
        stop: Event that stops the service.
        announce: Called once requests are accepted.
        load_models: Returns the models to serve in place of those in the settings; the engine then
            runs in a thread of this process.
        drain_time: Time to finish the requests; None means what the settings say.

    Raises:
        OSError: A port cannot be listened on.
        ModelLoadError: A model cannot be loaded.
        UnavailableError: The engine or the REST server failed.
        KeyFileError: The file of keys cannot be read.
    """
    drain_time = drain_time or DrainTime(settings.drain_timeout)
    with publication(settings) as published:
        if published is not None:
            settings = published.settings
        await _serve(settings, stop, announce, load_models, drain_time, published)


async def _serve(
    settings: Settings,
    stop: asyncio.Event,
    announce: Callable[[Ready], None],
    load_models: LoadModels | None,
    drain_time: DrainTime,
    published: Publication | None,
) -> None:
    """Build all objects, wire them, and serve."""
    access = AccessControl(settings)
    metrics = Metrics(service_version())
    traces = make_traces(settings)
    engine = make_engine(settings, load_models, metrics, traces)
    metrics.watch_queue(lambda: engine.n_waiting, lambda: engine.n_waiting_atoms)
    allowances = Allowances(settings.caller_limits())
    jacobians = Jacobians(engine, settings.max_jacobian_atoms, settings.jacobian_rows, allowances)
    dynamics = Dynamics(
        engine, settings.max_propagations, settings.max_propagation_steps, allowances
    )
    for name in settings.specs() if load_models is None else ():
        metrics.watch_model(name, partial(_is_available, engine, name))
    metrics.watch_runs(lambda: dynamics.n_running)
    limits = _call_limits(settings)
    intake, converter = Intake(), Converter()
    calls = describe_calls(engine, jacobians, dynamics, allowances, limits, converter)
    outcomes = Outcomes(metrics, engine, traces)
    app = make_app(
        engine, calls, metrics, outcomes, intake, limits, converter, allowances, access, settings
    )
    rest = make_rest_server(app, access, settings)
    grpc_server = GrpcServer(
        engine,
        calls,
        outcomes,
        intake,
        limits,
        converter,
        _grpc_connections(settings),
        access.key_check,
        access.certificates,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(converter.close)
        if traces is not None:
            stack.push_async_callback(traces.close)
        listeners = listen(settings.host, settings.rest_port, "REST")
        for listener in listeners:
            stack.enter_context(listener)
        metrics_port = await serve_metrics(engine, metrics, intake, settings, stack)
        grpc_port = await grpc_server.start(settings.host, settings.grpc_port)
        serving = asyncio.create_task(rest.serve(listeners))
        stack.push_async_callback(_stop, intake, engine, rest, serving, grpc_server, drain_time)
        following = asyncio.create_task(access.follow_files())
        stack.callback(following.cancel)
        engine.start()
        await _until(lambda: engine.is_ready or not engine.is_alive, stop, _START_INTERVAL)
        if not stop.is_set():
            engine.wait_until_ready(0)
            for info in engine.models.values():
                metrics.watch_model(info.name, partial(_is_available, engine, info.name))
                metrics.show_model(info)
            await grpc_server.set_healthy(is_healthy=True)
            rest_port = listeners[0].getsockname()[1]
            ready = _ready(settings, rest_port, grpc_port, metrics_port, engine)
            if published is not None:
                published.publish(ready.rest_url, ready.grpc_url)
                stack.callback(published.withdraw)
            announce(ready)
        health = asyncio.create_task(_follow_health(engine, grpc_server))
        stack.callback(health.cancel)
        await _until(lambda: serving.done() or not engine.is_alive, stop, _WATCH_INTERVAL)
        if not (stop.is_set() and engine.is_alive):
            culprit = "REST server" if engine.is_alive else "engine"
            raise UnavailableError(f"the {culprit} has failed; see the logs for the reason")


def main() -> int:
    """Run `twinforce-server`, or one of its commands; return its exit code."""
    if sys.argv[1:2] == ["keys"]:
        return keys_command.run(sys.argv[2:], file_of_keys())
    if sys.argv[1:2] == ["env"]:
        return command.run(sys.argv[2:], folder_of_environments())
    if sys.argv[1:2] == ["download"]:
        return download_command.run(sys.argv[2:])
    if sys.argv[1:2] == ["slurm"]:
        return slurm_command.run(sys.argv[2:])
    settings = parse_settings()
    logs.configure(settings.log_level, settings.log_format)
    allow_connections(2 * settings.max_connections)
    try:
        asyncio.run(_serve_until_signaled(settings))
    except (OSError, ServiceError, KeyFileError) as error:
        sys.stderr.write(f"twinforce-server: error: {error}\n")
        return 1
    return 0


async def _serve_until_signaled(settings: Settings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    drain_time = DrainTime(settings.drain_timeout, settings.drain_until)
    loop.set_exception_handler(AcceptFailures())

    def stop_on_signal() -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):  # a second signal ends the process at once
            loop.remove_signal_handler(number)

    def stop_before_the_end() -> None:  # of the job; sent to it and to its steps, maybe twice
        if not stop.is_set():
            drain_time.use_what_is_left()
            stop_on_signal()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_on_signal)
    loop.add_signal_handler(signal.SIGUSR1, stop_before_the_end)
    await serve(settings, stop, _print, drain_time=drain_time)


def _print(ready: Ready) -> None:
    gc.freeze()  # keep the objects that exist now out of garbage collections, which delay requests
    sys.stdout.write(ready.lines())
    sys.stdout.flush()


async def _stop(
    intake: Intake,
    engine: OwnedEngine,
    rest: RestServer,
    serving: "asyncio.Task[None]",
    grpc_server: GrpcServer,
    drain_time: DrainTime,
) -> None:
    """Stop in order: readiness, the calls that have arrived, connections, the engine, the ports."""
    await grpc_server.set_healthy(is_healthy=False)
    async with grpc_server.probe() as probe:
        await intake.settle(probe, _SETTLE_TIME)  # which /health/ready reports, too
    timeout = drain_time.seconds
    rest.stop(timeout + REPLY_TIME)
    grpc_server.close(timeout + REPLY_TIME)
    await asyncio.sleep(0)
    intake.close()
    await asyncio.gather(
        asyncio.to_thread(engine.stop, timeout),
        grpc_server.drain(timeout + REPLY_TIME),
        serving,
    )


async def _until(is_reached: Callable[[], bool], stop: asyncio.Event, interval: float) -> None:
    while not (is_reached() or stop.is_set()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), interval)


def _is_available(engine: OwnedEngine, model: str) -> bool:
    return model in engine.available_models


async def _follow_health(engine: OwnedEngine, grpc_server: GrpcServer) -> None:
    """Keep the gRPC health service up to date with the engine."""
    is_healthy = True
    while True:
        await asyncio.sleep(_WATCH_INTERVAL)
        if (is_ready := engine.is_ready) is is_healthy:
            continue
        try:
            await grpc_server.set_healthy(is_healthy=is_ready)
        except Exception:
            logger.exception("the health service of gRPC cannot be kept up to date")
        else:
            is_healthy = is_ready


def _call_limits(settings: Settings) -> CallLimits:
    return CallLimits(
        settings.max_body_bytes,
        settings.max_systems_per_call,
        settings.max_atoms_per_call,
        settings.max_atoms_per_system,
    )


def _grpc_connections(settings: Settings) -> GrpcConnectionLimits:
    return GrpcConnectionLimits(
        settings.max_connections,
        settings.max_connections_per_address,
        settings.max_streams_per_connection,
        settings.header_timeout,
        settings.min_rate,
        settings.grpc_idle_timeout,
        settings.grpc_keep_alive,
    )


def _ready(
    settings: Settings,
    rest_port: int,
    grpc_port: int,
    metrics_port: int | None,
    engine: OwnedEngine,
) -> Ready:
    tls = "s" if settings.tls_certificate else ""
    metrics_url = None
    if metrics_port is not None:
        metrics_url = f"http://{address_of(settings.metrics_host, metrics_port)}"
    return Ready(
        f"http{tls}://{address_of(settings.host, rest_port)}",
        f"grpc{tls}://{address_of(settings.host, grpc_port)}",
        tuple(engine.models.values()),
        metrics_url,
    )


if __name__ == "__main__":
    sys.exit(main())
