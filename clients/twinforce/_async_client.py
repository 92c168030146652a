"""The client for asyncio: drives the same flows as the blocking one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Literal, Self, TypeVar, cast, overload

from google.protobuf.message import Message

from twinforce._conversation import Conversation, Flow, Options, Pause
from twinforce._runs import (
    PropagateRun,
    RelaxRun,
    ResumingRun,
    Run,
    ended,
    model_of,
    origin_of,
)
from twinforce._transports.grpc import AsyncGrpcTransport
from twinforce._transports.rest import AsyncRestTransport
from twinforce._transports.transport import AsyncConnection, AsyncTransport, Call
from twinforce._transports.url import Url, parse_url
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    ModelInfo,
    Nonconservativity,
    Prediction,
    ServiceError,
    System,
    parse_outputs,
)
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.headers import NORMAL_URGENCY

T = TypeVar("T")


class AsyncClient:
    """As `Client`, with asyncio: one for each event loop."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        max_retries: int = 3,
        encoding: Literal["protobuf", "json"] = "protobuf",
        reply_dtype: Literal["float64", "float32"] = "float64",
        urgency: int = NORMAL_URGENCY,
    ) -> None:
        """Say where the service is and how to talk to it, as for `Client`."""
        self._url = parse_url(url)
        self._options = Options(
            timeout=timeout,
            max_retries=max_retries,
            encoding=encoding,
            reply_dtype=reply_dtype,
            urgency=urgency,
        )
        self._conversation = Conversation(self._options)
        self._is_closed = False
        self._transport: AsyncConnection | None = None

    @property
    def url(self) -> str:
        """Where the service is."""
        return str(self._url)

    @overload
    async def predict(
        self, systems: System, outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> Prediction: ...

    @overload
    async def predict(
        self, systems: Sequence[System], outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> list[Prediction]: ...

    async def predict(
        self,
        systems: System | Sequence[System],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Evaluate one system, or several together, as `Client.predict` does."""
        if isinstance(systems, System):
            return (await self._run(self._conversation.predict([systems], outputs, model)))[0]
        return await self._run(self._conversation.predict(systems, outputs, model))

    def stream(
        self, model: str | None = None, outputs: str | Sequence[str] = DEFAULT_OUTPUTS
    ) -> "AsyncStream":
        """Return an asynchronous context manager for a walker, as `Client.stream` does."""
        return AsyncStream(self, model, outputs)

    async def nonconservativity(
        self,
        system: System,
        model: str | None = None,
        pairs: bool = False,
        *,
        output: str = "direct_forces",
    ) -> Nonconservativity:
        """Measure how far forces are from being a gradient, as `Client.nonconservativity` does."""
        return await self._run(self._conversation.nonconservativity(system, model, pairs, output))

    async def propagate(
        self,
        origin: Start | Snapshot | bytes,
        n_steps: int,
        interval: int = 0,
        *,
        model: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Snapshot, None]:
        """Move a system on the server, as `Client.propagate` does."""
        start = origin_of(origin)
        name = await self._run(self._conversation.name_of(model or model_of(start)))
        journey = PropagateRun(PropagateRequest(name, start, n_steps, interval))
        async with aclosing(self._follow(journey, timeout)) as snapshots:
            async for snapshot in snapshots:
                yield snapshot

    async def relax(
        self,
        system: System,
        *,
        force_kind: Literal["hybrid", "conservative", "direct"] = "hybrid",
        fmax: float = 0.05,
        max_steps: int = 500,
        interval: int = 10,
        fixed_atoms: Sequence[int] = (),
        model: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Relaxed, None]:
        """Relax a system on the server, as `Client.relax` does."""
        name = await self._run(self._conversation.name_of(model))
        request = RelaxRequest(
            name,
            system,
            force_kind=force_kind,
            fmax=fmax,
            max_steps=max_steps,
            interval=interval,
            fixed_atoms=fixed_atoms,
        )
        async with aclosing(self._follow(RelaxRun(request), timeout)) as replies:
            async for relaxed in replies:
                yield relaxed

    async def models(self) -> list[ModelInfo]:
        """Return what every served model declares."""
        return await self._run(self._conversation.models())

    async def model(self, name: str | None = None) -> ModelInfo:
        """Return what one model declares."""
        return await self._run(self._conversation.model(name))

    async def close(self) -> None:
        """Close the connection; streams end."""
        self._is_closed = True
        if self._transport is not None:
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    def _connection(self) -> AsyncConnection:
        if self._is_closed:
            raise RuntimeError(f"{self!r} is closed")
        if self._transport is None:
            self._transport = _connect(self._url, self._options)
        return self._transport

    async def _follow(self, run: Run[T], timeout: float | None) -> AsyncGenerator[T, None]:
        connection = self._connection()
        resuming = ResumingRun(self._conversation, run, timeout)
        while not resuming.is_over:
            try:
                async with aclosing(connection.receive(resuming.call())) as replies:
                    async for reply in replies:
                        yield resuming.take(reply)
                if not resuming.is_over:
                    raise ended()
            except ServiceError as error:
                if not resuming.is_over:
                    await asyncio.sleep(resuming.pause_after(error))

    async def _run(self, flow: Flow[T]) -> T:
        return await _drive(flow, self._connection())


class AsyncStream:
    """As `Stream`, with asyncio; tasks that share it take turns."""

    def __init__(
        self, client: AsyncClient, model: str | None, outputs: str | Sequence[str]
    ) -> None:
        self._client = client
        self._model = model
        self._outputs = parse_outputs(outputs)
        self._encoder: StreamEncoder | None = None
        self._transport: AsyncTransport | None = None
        self._lock = asyncio.Lock()

    async def predict(
        self, system: System, outputs: str | Sequence[str] | None = None
    ) -> Prediction:
        """Evaluate the next system, as `Stream.predict` does."""
        wanted = self._outputs if outputs is None else parse_outputs(outputs)
        async with self._lock:
            encoder, transport = await self._open()
            flow = self._client._conversation.step(encoder, system, wanted)
            return await _drive(flow, transport)

    async def close(self) -> None:
        """End the stream; a later `predict` begins a new one."""
        async with self._lock:
            if self._transport is not None:
                await self._transport.close()
            self._encoder = self._transport = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> tuple[StreamEncoder, AsyncTransport]:
        connection = self._client._connection()
        if self._encoder is None or self._transport is None:
            model = await self._client._run(self._client._conversation.name_of(self._model))
            self._encoder = StreamEncoder(model, self._client._options.reply_dtype)
            self._transport = connection.stream()
        return self._encoder, self._transport


def _connect(url: Url, options: Options) -> AsyncConnection:
    if url.transport == "grpc":
        return AsyncGrpcTransport(url, options.urgency)
    return AsyncRestTransport(url, options.encoding, options.urgency)


async def _drive(flow: Flow[T], transport: AsyncTransport) -> T:
    """Run a flow to its end with asyncio."""
    try:
        step = next(flow)
        while True:
            try:
                reply = await _do(step, transport)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return cast(T, end.value)


async def _do(step: Call | Pause, transport: AsyncTransport) -> Message | None:
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    return await transport.send(step)
