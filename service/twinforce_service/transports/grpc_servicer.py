"""The gRPC servicer: every method of the inference service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

import grpc

from twinforce_proto import PredictRequest, ServiceError
from twinforce_proto.codec.messages import model_info_to_proto
from twinforce_proto.codec.stream import StreamDecoder, stream_reply_to_proto
from twinforce_proto.headers import CLIENT_ID, REQUEST_ID, URGENCY
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceServicer
from twinforce_service.calls.bounds import CallLimits, parsed, work_of_wire
from twinforce_service.calls.conversion import MAX_BYTES_INLINE, Converter
from twinforce_service.calls.descriptions import Calls, StreamingCall, UnaryCall
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.message_sizes import request_too_large
from twinforce_service.calls.outcomes import CountedOutcome, counted
from twinforce_service.context import (
    check_again,
    choose_request_id,
    has_valid_key,
    permission,
    request_id,
    set_peer,
    set_urgency,
)
from twinforce_service.engine.engine import Engine
from twinforce_service.engine.lifecycle import shutting_down
from twinforce_service.metrics import Metrics
from twinforce_service.scheduling.request import Walker
from twinforce_service.transports.grpc_connections import GrpcConnections
from twinforce_service.transports.grpc_errors import abort
from twinforce_service.transports.grpc_gate import place_of

_Context = grpc.aio.ServicerContext[Any, Any]
_Reply = TypeVar("_Reply")
_Call: TypeAlias = UnaryCall[Any, Any] | StreamingCall[Any, Any]


class GrpcServicer(InferenceServicer):
    """The `Inference` service of inference.proto, whose requests and replies are bytes.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        metrics: Metrics to update.
        intake: Intake of the calls.
        limits: Limits of a call.
        converter: Converts what is large.
        connections: Connections of the clients.
    """

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        metrics: Metrics,
        intake: Intake,
        limits: CallLimits,
        converter: Converter,
        connections: GrpcConnections,
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._calls = calls
        self._metrics = metrics
        self._intake = intake
        self._limits = limits
        self._converter = converter
        self._n_calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._draining = asyncio.Event()
        self._readers: set[asyncio.Task[Any]] = set()

    async def Predict(self, request: bytes, context: _Context) -> bytes:  # noqa: N802
        """Evaluate a list of systems."""
        return await self._answer(context, self._unary(self._calls.predict, request, context))

    async def PredictStream(  # noqa: N802
        self, request_iterator: AsyncIterator[bytes], context: _Context
    ) -> AsyncIterator[bytes]:
        """Evaluate one system after another."""
        del request_iterator  # waiting for it cannot be interrupted when the service stops
        self._intake.note_call()
        _set_request_id(context)
        _set_peer(context)
        try:
            _set_urgency(context)
        except ServiceError as error:
            await abort(context, error)
        decoder, walker = StreamDecoder(), Walker()
        while (data := await self._read(context)) is not grpc.aio.EOF:
            try:
                check_again.get()()
            except ServiceError as error:
                await abort(context, error)
            reply = await self._stream_reply(decoder, walker, data, context)
            await self._intake.may_reply()
            number = self._connections.note_reply(context.peer(), len(reply))
            try:
                yield reply
            finally:
                self._connections.note_end(number)

    async def Nonconservativity(  # noqa: N802
        self, request: bytes, context: _Context
    ) -> bytes:
        """Measure how far the forces of a system are from being a gradient."""
        call = self._calls.nonconservativity
        return await self._answer(context, self._unary(call, request, context))

    async def Propagate(  # noqa: N802
        self, request: bytes, context: _Context
    ) -> None:
        """Move a system and write its snapshots as fast as the client reads them."""
        await self._answer(context, self._stream(self._calls.propagate, request, context))

    async def Relax(self, request: bytes, context: _Context) -> None:  # noqa: N802
        """Relax a system and write its reports as fast as the client reads them."""
        await self._answer(context, self._stream(self._calls.relax, request, context))

    async def ListModels(  # noqa: N802
        self, request: bytes, context: _Context
    ) -> bytes:
        """Return the capabilities of each served model."""
        del request
        return await self._answer(context, self._list_models())

    async def GetModel(  # noqa: N802
        self, request: bytes, context: _Context
    ) -> bytes:
        """Return the capabilities of one model."""
        return await self._answer(context, self._get_model(request))

    async def drain(self, timeout: float) -> None:
        """End idle streams, and wait at most `timeout` s for the calls that are being answered."""
        self._draining.set()
        for reader in self._readers:
            reader.cancel()
        try:
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        except TimeoutError:
            return

    async def _answer(self, context: _Context, work: Coroutine[Any, Any, _Reply]) -> _Reply:
        """Return the reply of a call, or end the call with its error."""
        self._intake.note_call()
        _set_request_id(context)
        _set_peer(context)
        try:
            _set_urgency(context)
            reply = await work
        except ServiceError as error:
            work.close()  # it has not started if the urgency is invalid
            await self._intake.may_reply()
            await abort(context, error)
        await self._intake.may_reply()
        if isinstance(reply, bytes):
            number = self._connections.note_reply(context.peer(), len(reply))
            note_end: Any = lambda _: self._connections.note_end(number)  # noqa: E731
            context.add_done_callback(note_end)
        return reply

    async def _unary(self, call: UnaryCall[Any, Any], data: bytes, context: _Context) -> bytes:
        with self._counted() as outcome:
            request = await self._decode(call, data, outcome)
            reply = await call.answer(request, _time_remaining(context))
            return await self._encode(call, request, reply)

    async def _stream(self, call: StreamingCall[Any, Any], data: bytes, context: _Context) -> None:
        with self._counted() as outcome:
            request = await self._decode(call, data, outcome)
            async with aclosing(call.answer(request, _time_remaining(context))) as replies:
                was_valid = True
                async for reply in replies:
                    # What began with a valid key is sent, so that each call makes progress.
                    check_again.get()(may_be_expired=was_valid)
                    was_valid = has_valid_key()
                    await context.write(await self._encode(call, request, reply))

    async def _decode(self, call: _Call, data: bytes, outcome: CountedOutcome) -> Any:
        """Return the request in a message, unless it or its reply is too large."""
        _check_size(len(data), self._limits.max_bytes)
        n_bytes = work_of_wire(data, call.message)
        decode = partial(self._decoded, call, data, outcome)
        request = await self._converter.convert(n_bytes, decode)
        call.check(request)
        call.check_reply(request, self._limits.max_bytes)
        return request

    def _decoded(self, call: _Call, data: bytes, outcome: CountedOutcome) -> Any:
        self._limits.check_wire(data, call.message)
        message: Any = parsed(call.message, data)
        outcome.model = message.model
        permission.get().require(call.scope, message.model)
        return call.decode(message)

    async def _encode(self, call: _Call, request: Any, reply: Any) -> bytes:
        def encode() -> bytes:
            return call.encode(request, reply).SerializeToString()

        return await self._converter.convert(call.n_bytes(reply), encode)

    async def _list_models(self) -> bytes:
        allows = permission.get().allows
        infos = [info for info in self._engine.models.values() if allows(info.name)]
        models = map(model_info_to_proto, infos)
        return pb.ListModelsReply(models=models).SerializeToString()

    async def _get_model(self, data: bytes) -> bytes:
        _check_size(len(data), self._limits.max_bytes)
        name = parsed(pb.GetModelRequest, data).model
        permission.get().require_model(name)
        return model_info_to_proto(self._engine.find(name)).SerializeToString()

    async def _stream_reply(
        self,
        decoder: StreamDecoder,
        walker: Walker,
        data: bytes,
        context: _Context,
    ) -> bytes:
        self._begin()
        try:
            with counted(self._metrics, "grpc_stream", self._engine, decoder.model) as outcome:
                _check_size(len(data), self._limits.max_bytes)
                decode = partial(self._decoded_step, decoder, data, outcome)
                request = await self._converter.convert(len(data), decode)
                return await self._step(request, walker, context)
        except ServiceError as error:
            return stream_reply_to_proto(error).SerializeToString()
        finally:
            self._finish()

    def _decoded_step(
        self, decoder: StreamDecoder, data: bytes, outcome: CountedOutcome
    ) -> PredictRequest:
        try:
            if len(data) > MAX_BYTES_INLINE:
                self._limits.check_wire(data, pb.StreamRequest)
            message = parsed(pb.StreamRequest, data)
            outcome.model = message.model or outcome.model
            permission.get().require(self._calls.predict.scope, outcome.model)
        except ServiceError:
            decoder.forget()
            raise
        return decoder.decode(message)

    async def _step(self, request: PredictRequest, walker: Walker, context: _Context) -> bytes:
        self._calls.predict.check_reply(request, self._limits.max_bytes)
        timeout = _time_remaining(context)
        predictions = await self._calls.step(request, timeout, walker)

        def encode() -> bytes:
            return stream_reply_to_proto(predictions[0], request.reply_dtype).SerializeToString()

        return await self._converter.convert(self._calls.predict.n_bytes(predictions), encode)

    async def _read(self, context: _Context) -> Any:
        """Return the next message of a stream, unless the service stops first."""
        if self._draining.is_set():
            await abort(context, shutting_down())
        reader = asyncio.current_task()
        assert reader is not None
        self._readers.add(reader)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            reader.uncancel()
            await abort(context, shutting_down())
        finally:
            self._readers.discard(reader)

    @contextmanager
    def _counted(self) -> Iterator[CountedOutcome]:
        self._begin()
        try:
            with counted(self._metrics, "grpc", self._engine) as outcome:
                yield outcome
        finally:
            self._finish()

    def _begin(self) -> None:
        self._n_calls += 1
        self._is_idle.clear()

    def _finish(self) -> None:
        self._n_calls -= 1
        if not self._n_calls:
            self._is_idle.set()


def _set_request_id(context: _Context) -> None:
    """Use the request id of the client, or a new one, and send it back."""
    metadata = dict(context.invocation_metadata() or ())
    given = metadata.get(REQUEST_ID)
    request_id.set(choose_request_id(given if isinstance(given, str) else None))
    context.set_trailing_metadata(((REQUEST_ID, request_id.get()),))


def _set_peer(context: _Context) -> None:
    """Note where a call comes from."""
    host, port = place_of(context.peer())
    given = dict(context.invocation_metadata() or ()).get(CLIENT_ID)
    set_peer(host, port, given)


def _set_urgency(context: _Context) -> None:
    """Use the urgency of the client, or raise `InvalidRequestError`."""
    set_urgency(dict(context.invocation_metadata() or ()).get(URGENCY))


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise request_too_large(max_bytes, n_bytes)


def _time_remaining(context: _Context) -> float | None:
    seconds: float | None = context.time_remaining()
    return seconds
