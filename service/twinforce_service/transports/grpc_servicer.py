"""The gRPC servicer: every method of the inference service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar
from urllib.parse import unquote

import grpc

from twinforce_proto import PredictRequest, ServiceError
from twinforce_proto.codec.messages import (
    ERROR_METADATA_KEY,
    error_to_proto,
    model_info_to_proto,
)
from twinforce_proto.codec.stream import StreamDecoder, stream_reply_to_proto
from twinforce_proto.headers import CLIENT_ID, REQUEST_ID, URGENCY
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceServicer
from twinforce_service.calls.conversion import convert
from twinforce_service.calls.descriptions import Calls, StreamingCall, UnaryCall
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.message_sizes import request_too_large
from twinforce_service.calls.outcomes import counted
from twinforce_service.context import choose_request_id, request_id, set_peer, set_urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.engine.lifecycle import shutting_down
from twinforce_service.metrics import Metrics
from twinforce_service.scheduling.request import Walker
from twinforce_service.transports.retry_info import retry_details

# Longer error messages are cut, as the headers of a reply have little space.
_MAX_MESSAGE = 1000

_Context = grpc.aio.ServicerContext[Any, Any]
_Reply = TypeVar("_Reply")


class GrpcServicer(InferenceServicer):
    """The `Inference` service of inference.proto.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        metrics: Metrics to update.
        intake: Intake of the calls.
        max_bytes: Size limit of a request and of a reply.
    """

    def __init__(
        self, engine: Engine, calls: Calls, metrics: Metrics, intake: Intake, max_bytes: int
    ) -> None:
        self._engine = engine
        self._calls = calls
        self._metrics = metrics
        self._intake = intake
        self._max_bytes = max_bytes
        self._n_calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._draining = asyncio.Event()
        self._readers: set[asyncio.Task[Any]] = set()

    async def Predict(self, request: pb.PredictRequest, context: _Context) -> Any:  # noqa: N802
        """Evaluate a list of systems."""
        return await self._answer(context, self._unary(self._calls.predict, request, context))

    async def PredictStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: _Context
    ) -> AsyncIterator[pb.StreamReply]:
        """Evaluate one system after another."""
        del request_iterator  # waiting for it cannot be interrupted when the service stops
        self._intake.note_call()
        _set_request_id(context)
        _set_peer(context)
        try:
            _set_urgency(context)
        except ServiceError as error:
            await _abort(context, error)
        decoder, walker = StreamDecoder(), Walker()
        model = ""
        while (message := await self._read(context)) is not grpc.aio.EOF:
            model = message.model or model
            reply = await self._stream_reply(decoder, walker, message, model, context)
            await self._intake.may_reply()
            yield reply

    async def Nonconservativity(  # noqa: N802
        self, request: pb.NonconservativityRequest, context: _Context
    ) -> Any:
        """Measure how far the forces of a system are from being a gradient."""
        call = self._calls.nonconservativity
        return await self._answer(context, self._unary(call, request, context))

    async def Propagate(  # noqa: N802
        self, request: pb.PropagateRequest, context: _Context
    ) -> None:
        """Move a system and write its snapshots as fast as the client reads them."""
        await self._answer(context, self._stream(self._calls.propagate, request, context))

    async def Relax(self, request: pb.RelaxRequest, context: _Context) -> None:  # noqa: N802
        """Relax a system and write its reports as fast as the client reads them."""
        await self._answer(context, self._stream(self._calls.relax, request, context))

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsReply:
        """Return the capabilities of each served model."""
        del request
        return await self._answer(context, self._list_models())

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: _Context
    ) -> pb.ModelInfo:
        """Return the capabilities of one model."""
        return await self._answer(context, self._get_model(request.model))

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
            await _abort(context, error)
        await self._intake.may_reply()
        return reply

    async def _unary(self, call: UnaryCall[Any, Any], message: Any, context: _Context) -> Any:
        with self._counted(message.model):
            request = await self._decode(call, message)
            reply = await call.answer(request, _time_remaining(context))
            return await convert(call.n_bytes(reply), partial(call.encode, request, reply))

    async def _stream(self, call: StreamingCall[Any, Any], message: Any, context: _Context) -> None:
        with self._counted(message.model):
            request = await self._decode(call, message)
            async with aclosing(call.answer(request, _time_remaining(context))) as replies:
                async for reply in replies:
                    encode = partial(call.encode, request, reply)
                    await context.write(await convert(call.n_bytes(reply), encode))

    async def _decode(
        self, call: UnaryCall[Any, Any] | StreamingCall[Any, Any], message: Any
    ) -> Any:
        """Return the request in a message, unless it or its reply is too large."""
        n_bytes = message.ByteSize()
        _check_size(n_bytes, self._max_bytes)
        request = await convert(n_bytes, partial(call.decode, message))
        call.check_reply(request, self._max_bytes)
        return request

    async def _list_models(self) -> pb.ListModelsReply:
        return pb.ListModelsReply(models=map(model_info_to_proto, self._engine.models.values()))

    async def _get_model(self, name: str) -> pb.ModelInfo:
        return model_info_to_proto(self._engine.find(name))

    async def _stream_reply(
        self,
        decoder: StreamDecoder,
        walker: Walker,
        message: pb.StreamRequest,
        model: str,
        context: _Context,
    ) -> pb.StreamReply:
        self._begin()
        try:
            with counted(self._metrics, "grpc_stream", self._engine, model):
                _check_size(message.ByteSize(), self._max_bytes)
                return await self._step(decoder.decode(message), walker, context)
        except ServiceError as error:
            return stream_reply_to_proto(error)
        finally:
            self._finish()

    async def _step(
        self, request: PredictRequest, walker: Walker, context: _Context
    ) -> pb.StreamReply:
        self._calls.predict.check_reply(request, self._max_bytes)
        timeout = _time_remaining(context)
        (prediction,) = await self._calls.step(request, timeout, walker)
        return stream_reply_to_proto(prediction, request.reply_dtype)

    async def _read(self, context: _Context) -> Any:
        """Return the next message of a stream, unless the service stops first."""
        if self._draining.is_set():
            await _abort(context, shutting_down())
        reader = asyncio.current_task()
        assert reader is not None
        self._readers.add(reader)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            reader.uncancel()
            await _abort(context, shutting_down())
        finally:
            self._readers.discard(reader)

    @contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        self._begin()
        try:
            with counted(self._metrics, "grpc", self._engine, model):
                yield
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
    """Note where a call comes from, such as "ipv4:127.0.0.1:5000" or "ipv6:%5B::1%5D:5000"."""
    scheme, _, place = unquote(context.peer()).partition(":")
    host, _, port = place.rpartition(":") if scheme != "unix" else (place, "", "")
    given = dict(context.invocation_metadata() or ()).get(CLIENT_ID)
    set_peer(host.strip("[]"), port, given)


def _set_urgency(context: _Context) -> None:
    """Use the urgency of the client, or raise `InvalidRequestError`."""
    set_urgency(dict(context.invocation_metadata() or ()).get(URGENCY))


def _check_size(n_bytes: int, max_bytes: int) -> None:
    if n_bytes > max_bytes:
        raise request_too_large(max_bytes, n_bytes)


def _time_remaining(context: _Context) -> float | None:
    seconds: float | None = context.time_remaining()
    return seconds


async def _abort(context: _Context, error: ServiceError) -> NoReturn:
    """End a call with an error, which trailing metadata describe in full."""
    message = error_to_proto(error)
    message.message = message.message[:_MAX_MESSAGE]
    metadata: tuple[tuple[str, str | bytes], ...] = (
        (ERROR_METADATA_KEY, message.SerializeToString()),
        (REQUEST_ID, request_id.get()),
        *retry_details(error, str(error)[:_MAX_MESSAGE]),
    )
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, str(error)[:_MAX_MESSAGE], metadata)
