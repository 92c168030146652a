"""The server process: build all objects, wire them, and start and stop the service."""

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable, Iterable
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
from twinforce_service.calls.status import StatusReader
from twinforce_service.clusters import command as slurm_command
from twinforce_service.clusters.drain import REPLY_TIME, DrainTime
from twinforce_service.clusters.publication import Publication, publication
from twinforce_service.downloads import command as download_command
from twinforce_service.engine.engine import OwnedEngine
from twinforce_service.engines import LoadModels, make_engine
from twinforce_service.environments import command
from twinforce_service.environments.placement import environments_of
from twinforce_service.flags import file_of_keys, folder_of_environments, parse_settings
from twinforce_service.metrics import Metrics
from twinforce_service.servers import RestServer, make_app, make_rest_server, serve_metrics
from twinforce_service.settings import Settings
from twinforce_service.tracing.export import make_traces
from twinforce_service.transports.accepting import AcceptFailures
from twinforce_service.transports.grpc_server import GrpcConnectionLimits, GrpcServer
from twinforce_service.transports.ports import address_of, allow_connections, listen
from twinforce_service.version import service_version

logger = logging.getLogger(__name__)

# Seconds between checks whether the engine is ready, and later whether it is alive.
_START_INTERVAL, _WATCH_INTERVAL = 0.02, 0.25
# Seconds to take the last calls, of the time to drain; at least so many also if that is shorter.
_SETTLE_TIME, _SHORTEST_SETTLE_TIME = 10.0, 1.0
# Seconds to leave the address file, after which its file system does not delay the stop any more.
_WITHDRAWAL_TIME = 3.0


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
    """Build all objects, serve until `stop` is set, and stop in order."""
    async with contextlib.AsyncExitStack() as stack:
        service = _build(settings, load_models, stack)
        engine = service.engine
        open_ports = await _open_ports(service, drain_time, stack)
        engine.start()
        await _until(lambda: engine.is_ready or not engine.is_alive, stop, _START_INTERVAL)
        if not stop.is_set():
            engine.wait_until_ready(0)
            ready = _ready(settings, open_ports, engine)
            await _begin(service, ready, published, stack)
            announce(ready)
        health = asyncio.create_task(_follow_health(engine, service.grpc_server))
        stack.callback(health.cancel)
        rest_ended = open_ports.serving.done
        await _until(lambda: rest_ended() or not engine.is_alive, stop, _WATCH_INTERVAL)
        if not (stop.is_set() and engine.is_alive):
            culprit = "REST server" if engine.is_alive else "engine"
            raise UnavailableError(f"the {culprit} has failed; see the logs for the reason")


@dataclass(frozen=True, slots=True)
class _Service:
    """The objects of a service that outlive its construction."""

    settings: Settings
    access: AccessControl
    metrics: Metrics
    engine: OwnedEngine
    intake: Intake
    rest: RestServer
    grpc_server: GrpcServer


@dataclass(frozen=True, slots=True)
class _OpenPorts:
    """The ports that a service listens to, and the task that serves REST."""

    rest: int
    grpc: int
    metrics: int | None
    serving: "asyncio.Task[None]"


def _build(
    settings: Settings, load_models: LoadModels | None, stack: contextlib.AsyncExitStack
) -> _Service:
    """Build all objects and wire them; those that hold something are closed with the stack."""
    access = AccessControl(settings)
    metrics = Metrics(service_version())
    intake, converter = Intake(), Converter()
    stack.callback(converter.close)
    traces = make_traces(settings)
    if traces is not None:
        stack.push_async_callback(traces.close)
    engine = make_engine(settings, load_models, metrics, traces)
    allowances = Allowances(settings.caller_limits())
    jacobians = Jacobians(engine, settings.max_jacobian_atoms, settings.jacobian_rows, allowances)
    dynamics = Dynamics(
        engine, settings.max_propagations, settings.max_propagation_steps, allowances
    )
    _watch(metrics, engine, dynamics, settings.specs() if load_models is None else ())
    limits = _call_limits(settings)
    status = StatusReader(
        engine,
        metrics,
        intake,
        environments_of(settings.specs()) if load_models is None else {},
        # Those who monitor have a port of their own then.
        names_callers=settings.metrics_port is None,
    )
    calls = describe_calls(engine, jacobians, dynamics, allowances, limits, converter, status)
    outcomes = Outcomes(metrics, engine, traces)
    app = make_app(
        engine, calls, metrics, outcomes, intake, limits, converter, allowances, access, settings
    )
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
    rest = make_rest_server(app, access, settings)
    return _Service(settings, access, metrics, engine, intake, rest, grpc_server)


def _watch(metrics: Metrics, engine: OwnedEngine, dynamics: Dynamics, names: Iterable[str]) -> None:
    """Let the metrics read the queue, the runs, and the availability of models of these names."""
    metrics.watch_queue(lambda: engine.n_waiting, lambda: engine.n_waiting_atoms)
    metrics.watch_runs(lambda: dynamics.n_running)
    for name in names:
        metrics.watch_model(name, partial(_is_available, engine, name))


async def _open_ports(
    service: _Service, drain_time: DrainTime, stack: contextlib.AsyncExitStack
) -> _OpenPorts:
    """Listen to all ports, which answer that the service is not ready yet."""
    settings, engine, intake = service.settings, service.engine, service.intake
    rest, grpc_server = service.rest, service.grpc_server
    listeners = listen(settings.host, settings.rest_port, "REST")
    for listener in listeners:
        stack.enter_context(listener)
    metrics_port = await serve_metrics(engine, service.metrics, intake, settings, stack)
    grpc_port = await grpc_server.start(settings.host, settings.grpc_port)
    serving = asyncio.create_task(rest.serve(listeners))
    stack.push_async_callback(_stop, intake, engine, rest, serving, grpc_server, drain_time)
    following = asyncio.create_task(service.access.follow_files())
    stack.callback(following.cancel)
    return _OpenPorts(listeners[0].getsockname()[1], grpc_port, metrics_port, serving)


async def _begin(
    service: _Service,
    ready: Ready,
    published: Publication | None,
    stack: contextlib.AsyncExitStack,
) -> None:
    """Accept requests, and say so in health, metrics and the address file."""
    engine, metrics = service.engine, service.metrics
    for info in engine.models.values():
        metrics.watch_model(info.name, partial(_is_available, engine, info.name))
        metrics.show_model(info)
    await service.grpc_server.set_healthy(is_healthy=True)
    if published is not None:  # in threads, as a shared file system may be slow
        await asyncio.to_thread(published.publish, ready.rest_url, ready.grpc_url)
        stack.push_async_callback(_withdraw, published)


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

    def begin_to_stop() -> None:
        drain_time.begin()
        drain_time.end_process_later()
        stop.set()

    def stop_on_signal() -> None:
        if stop.is_set():  # by SIGUSR1
            drain_time.shorten()
        begin_to_stop()
        for number in (signal.SIGINT, signal.SIGTERM):  # a second signal ends the process at once
            loop.remove_signal_handler(number)

    def stop_before_the_end() -> None:  # of the job; sent to it and to its steps, maybe twice
        if not stop.is_set():
            drain_time.use_what_is_left()
            begin_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop_on_signal)
    loop.add_signal_handler(signal.SIGUSR1, stop_before_the_end)
    await serve(settings, stop, _print, drain_time=drain_time)


def _print(ready: Ready) -> None:
    gc.freeze()  # keep the objects that exist now out of garbage collections, which delay requests
    sys.stdout.write(ready.lines())
    sys.stdout.flush()


async def _withdraw(published: Publication) -> None:
    """Remove the server from its address file."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(published.withdraw), _WITHDRAWAL_TIME)


async def _stop(
    intake: Intake,
    engine: OwnedEngine,
    rest: RestServer,
    serving: "asyncio.Task[None]",
    grpc_server: GrpcServer,
    drain_time: DrainTime,
) -> None:
    """Stop in order: readiness, the calls that have arrived, connections, the engine, the ports."""
    drain_time.begin()
    await grpc_server.set_healthy(is_healthy=False)
    settle_time = max(min(drain_time.seconds, _SETTLE_TIME), _SHORTEST_SETTLE_TIME)
    async with grpc_server.probe() as probe:
        await intake.settle(probe, settle_time)  # which /health/ready reports, too
    timeout = drain_time.seconds
    rest.stop(timeout + REPLY_TIME)
    grpc_server.close(timeout + REPLY_TIME)
    await asyncio.sleep(0)
    intake.close()
    shortening = asyncio.create_task(_stop_earlier(engine, rest, grpc_server, drain_time))
    await asyncio.gather(
        asyncio.to_thread(engine.stop, timeout),
        grpc_server.drain(timeout + REPLY_TIME),
        serving,
    )
    shortening.cancel()


async def _stop_earlier(
    engine: OwnedEngine, rest: RestServer, grpc_server: GrpcServer, drain_time: DrainTime
) -> None:
    """Stop the engine and end the connections earlier once the time to drain is shortened."""
    await drain_time.shortened.wait()
    timeout = drain_time.seconds
    rest.stop(timeout + REPLY_TIME)
    grpc_server.close(timeout + REPLY_TIME)
    await asyncio.to_thread(engine.stop, timeout)


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


def _ready(settings: Settings, ports: _OpenPorts, engine: OwnedEngine) -> Ready:
    tls = "s" if settings.tls_certificate else ""
    metrics_url = None
    if ports.metrics is not None:
        metrics_url = f"http://{address_of(settings.metrics_host, ports.metrics)}"
    return Ready(
        f"http{tls}://{address_of(settings.host, ports.rest)}",
        f"grpc{tls}://{address_of(settings.host, ports.grpc)}",
        tuple(engine.models.values()),
        metrics_url,
    )


if __name__ == "__main__":
    sys.exit(main())
