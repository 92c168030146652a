"""The client for asyncio: executes the same flows as the blocking one."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, Self, TypeVar, cast, overload

from google.protobuf.message import Message

from twinforce._connections.loops import IterationInLoop, LoopConnection, close_in
from twinforce._connections.ownership import OfLoop
from twinforce._conversation import LONGEST_SLEEP_S, Conversation, Flow, Pause
from twinforce._options import Options, time_limit
from twinforce._runs import ResumingRun, Run, propagation, relaxation
from twinforce._systems import SystemLike, is_one_system
from twinforce._transports.access import Access, KeySource
from twinforce._transports.address_file import AddressFile, Server, locate
from twinforce._transports.following import AsyncFollowingConnection
from twinforce._transports.grpc import AsyncGrpcTransport
from twinforce._transports.replication.connections import AsyncReplicatedConnection
from twinforce._transports.rest import AsyncRestTransport
from twinforce._transports.transport import AsyncConnection, AsyncTransport, Call
from twinforce._transports.url import Address, Url
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import DEFAULT_FMAX, DEFAULT_MAX_STEPS
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    ModelInfo,
    Nonconservativity,
    Prediction,
    ServiceError,
    ServiceStatus,
    parse_outputs,
)
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.headers import NORMAL_URGENCY

T = TypeVar("T")


class AsyncClient:
    """The asyncio counterpart of `Client`.

    It opens a connection in each event loop that it is used in, one after another or at the same
    time in several threads, and closes it with the loop. Its streams and iterators go on in
    another loop as well.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = 60.0,
        reconnect_timeout: float | Literal["timeout"] | None = "timeout",
        max_retries: int | None = None,
        encoding: Literal["protobuf", "json"] = "protobuf",
        reply_dtype: Literal["float64", "float32"] = "float64",
        urgency: int = NORMAL_URGENCY,
        key: KeySource | None = None,
        insecure_key: bool | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create a client; see `Client` for the arguments."""
        self._url, access = locate(
            url,
            key=key,
            insecure_key=insecure_key,
            ca=ca,
            certificate=certificate,
            private_key=private_key,
        )
        self._options = Options(
            timeout=timeout,
            reconnect_timeout=reconnect_timeout,
            max_retries=max_retries,
            encoding=encoding,
            reply_dtype=reply_dtype,
            urgency=urgency,
            access=access,
        )
        self._conversation = Conversation(self._options)
        self._is_closed = False
        connect = partial(_connect_all, self._url, self._options)
        self._connections = OfLoop(partial(LoopConnection, connect))

    @property
    def url(self) -> str:
        """Address of the service."""
        return str(self._url)

    @overload
    async def predict(
        self, systems: SystemLike, outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> Prediction: ...

    @overload
    async def predict(
        self,
        systems: Iterable[SystemLike],
        outputs: str | Sequence[str] = ...,
        model: str | None = ...,
    ) -> list[Prediction]: ...

    async def predict(
        self,
        systems: SystemLike | Iterable[SystemLike],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Evaluate one system, or several in one request; see `Client.predict`."""
        is_one = is_one_system(systems)
        several = cast(Iterable[SystemLike], [systems] if is_one else systems)
        predictions = await self._execute(self._conversation.predict(several, outputs, model))
        return predictions[0] if is_one else predictions

    async def predict_atoms(
        self,
        all_atoms: Iterable[Any],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> list[Any]:
        """Evaluate many `Atoms` of ASE; return labeled copies; see `Client.predict_atoms`."""
        from twinforce.ase.labeling import Labeling

        labeling = Labeling(all_atoms)
        for systems in labeling.requests():
            with labeling.indexing():
                labeling.add(await self.predict(systems, outputs, model))
        return labeling.labeled

    def stream(
        self, model: str | None = None, outputs: str | Sequence[str] = DEFAULT_OUTPUTS
    ) -> "AsyncStream":
        """Return an asynchronous context manager for a walker; see `Client.stream`."""
        return AsyncStream(self, model, outputs)

    async def nonconservativity(
        self,
        system: SystemLike,
        model: str | None = None,
        pairs: bool = False,
        *,
        output: str = "direct_forces",
    ) -> Nonconservativity:
        """Measure how far forces are from a gradient; see `Client.nonconservativity`."""
        return await self._execute(
            self._conversation.nonconservativity(system, model, pairs, output)
        )

    async def propagate(
        self,
        origin: Start | Snapshot | bytes,
        n_steps: int,
        interval: int = 0,
        *,
        model: str | None = None,
        allow_model_change: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Snapshot, None]:
        """Run molecular dynamics on the server and yield snapshots; see `Client.propagate`."""
        timeout = time_limit("timeout", timeout)
        flow = propagation(self._conversation, origin, n_steps, interval, model, allow_model_change)
        async with IterationInLoop(self._follow(await self._execute(flow), timeout)) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def relax(
        self,
        system: SystemLike,
        *,
        force_kind: Literal["hybrid", "conservative", "direct"] = "hybrid",
        fmax: float = DEFAULT_FMAX,
        max_steps: int = DEFAULT_MAX_STEPS,
        interval: int = 10,
        fixed_atoms: Sequence[int] = (),
        model: str | None = None,
        allow_model_change: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Relaxed, None]:
        """Relax the positions of a system on the server; see `Client.relax`."""
        timeout = time_limit("timeout", timeout)
        flow = relaxation(
            self._conversation,
            system,
            model,
            allow_model_change,
            force_kind=force_kind,
            fmax=fmax,
            max_steps=max_steps,
            interval=interval,
            fixed_atoms=fixed_atoms,
        )
        async with IterationInLoop(self._follow(await self._execute(flow), timeout)) as reports:
            async for relaxed in reports:
                yield relaxed

    async def models(self) -> list[ModelInfo]:
        """Return the description of every served model."""
        return await self._execute(self._conversation.models())

    async def model(self, name: str | None = None) -> ModelInfo:
        """Return the description of one model; see `Client.model`."""
        return await self._execute(self._conversation.model(name))

    async def status(self) -> ServiceStatus:
        """Return the state of the service, also while it is not ready; see `Client.status`."""
        return await self._execute(self._conversation.status())

    async def close(self) -> None:
        """Close the connections and their streams; those of another process stay open."""
        self._is_closed = True
        for loop, connection in self._connections.items():
            await close_in(loop, connection.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def _connection(self) -> AsyncConnection:
        self._check_open()
        return await self._connections.get().get()

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError(f"{self!r} is closed")

    async def _wait(self, seconds: float) -> None:
        """Wait between two attempts, unless the client is closed meanwhile."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left, LONGEST_SLEEP_S))
            self._check_open()

    async def _follow(self, run: Run[T], timeout: float | None) -> AsyncGenerator[T, None]:
        resuming = ResumingRun(self._conversation, run, timeout)
        while not resuming.is_over:
            loop, connection = asyncio.get_running_loop(), await self._connection()
            try:
                async with IterationInLoop(connection.receive(resuming.next_call())) as replies:
                    async for reply in replies:
                        yield resuming.take(reply)
                        if asyncio.get_running_loop() is not loop:
                            break  # the iterator went on in another loop, and resumes there
                    else:
                        resuming.check_ended()
            except ServiceError as error:
                await self._wait(resuming.pause_after(error))

    async def _execute(self, flow: Flow[T]) -> T:
        return await _execute(flow, await self._connection(), self._wait)


class AsyncStream:
    """The asyncio counterpart of `Stream`; tasks that share it take turns."""

    def __init__(
        self, client: AsyncClient, model: str | None, outputs: str | Sequence[str]
    ) -> None:
        self._client = client
        self._model = model
        self._outputs = parse_outputs(outputs)

    async def predict(
        self, system: SystemLike, outputs: str | Sequence[str] | None = None
    ) -> Prediction:
        """Evaluate the next system; see `Stream.predict`."""
        parsed_outputs = self._outputs if outputs is None else parse_outputs(outputs)
        connection = await self._client._connection()
        turns = self._client._connections.get().turns_of(self)
        async with turns.lock:
            n_closed = turns.n_closed
            walker, turns.walker = turns.walker, None
            encoder, transport = walker or await self._open(connection)
            flow = self._client._conversation.step(encoder, system, parsed_outputs)
            prediction = await _execute(flow, transport, self._client._wait)
            if turns.n_closed == n_closed:
                turns.walker = encoder, transport
            else:
                await transport.close()
            return prediction

    async def close(self) -> None:
        """End the stream; a later `predict` starts a new one."""
        for loop, connection in self._client._connections.items():
            turns = connection.turns_of(self)
            turns.n_closed += 1
            walker, turns.walker = turns.walker, None
            if walker is not None:
                await close_in(loop, walker[1].close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self, connection: AsyncConnection) -> tuple[StreamEncoder, AsyncTransport]:
        flow = self._client._conversation.resolve_model(self._model)
        model = await self._client._execute(flow)
        return StreamEncoder(model, self._client._options.reply_dtype), connection.stream()


def _connect_all(address: Address | AddressFile, options: Options) -> AsyncConnection:
    if isinstance(address, AddressFile):
        return AsyncFollowingConnection(address, partial(_connect_servers, options))
    return _connect_servers(options, tuple(Server(url, options.access) for url in address.urls))


def _connect_servers(options: Options, servers: tuple[Server, ...]) -> AsyncConnection:
    access_of = {server.url: server.access for server in servers}

    def connect(url: Url) -> AsyncConnection:
        # A name that stands for several addresses leads to URLs of its own.
        return _connect(url, options, access_of.get(url, servers[0].access))

    address = Address(tuple(access_of))
    return (
        connect(address.urls[0])
        if address.is_one
        else AsyncReplicatedConnection(address.urls, connect)
    )


def _connect(url: Url, options: Options, access: Access) -> AsyncConnection:
    if url.transport == "grpc":
        return AsyncGrpcTransport(url, options.urgency, access)
    return AsyncRestTransport(url, options.encoding, options.urgency, access)


async def _execute(
    flow: Flow[T], transport: AsyncTransport, wait: Callable[[float], Awaitable[None]]
) -> T:
    """Execute a flow with asyncio and return its result."""
    try:
        step = next(flow)
        while True:
            try:
                reply = await _perform(step, transport, wait)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return cast(T, end.value)


async def _perform(
    step: Call | Pause, transport: AsyncTransport, wait: Callable[[float], Awaitable[None]]
) -> Message | None:
    if isinstance(step, Pause):
        await wait(step.seconds)
        return None
    return await transport.send(step)
