"""The gRPC servicer: every method of the inference service."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc

from twinforce_dynamics.codec.propagation import propagate_request_from_proto, snapshot_to_proto
from twinforce_dynamics.codec.relaxation import relax_request_from_proto, relaxed_to_proto
from twinforce_proto import PredictRequest, ServiceError, UnavailableError
from twinforce_proto.codec.messages import (
    ERROR_METADATA_KEY,
    error_to_proto,
    model_info_to_proto,
    predict_reply_to_proto,
    predict_request_from_proto,
)
from twinforce_proto.codec.nonconservativity import (
    nonconservativity_reply_to_proto,
    nonconservativity_request_from_proto,
)
from twinforce_proto.codec.stream import StreamDecoder, stream_reply_to_proto
from twinforce_proto.headers import REQUEST_ID, URGENCY
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import (
    InferenceServicer,
)
from twinforce_service.calls.conversion import (
    convert,
    nonconservativity_bytes,
    reply_bytes,
    snapshot_bytes,
)
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.calls.outcomes import counted
from twinforce_service.calls.predictions import Call
from twinforce_service.context import choose_request_id, request_id, set_urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.metrics import Metrics
from twinforce_service.scheduling.request import Walker

# The headers of a reply have little room; a longer message is cut.
_MAX_MESSAGE = 1000


_Context = grpc.aio.ServicerContext[Any, Any]


_Reply = TypeVar("_Reply")


class Inference(InferenceServicer):
    """The `Inference` service of inference.proto."""

    def __init__(
        self, engine: Engine, jacobians: Jacobians, dynamics: Dynamics, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._jacobians = jacobians
        self._dynamics = dynamics
        self._metrics = metrics
        self._n_calls = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._draining = asyncio.Event()
        self._readers: set[asyncio.Task[Any]] = set()

    async def Predict(  # noqa: N802
        self, request: pb.PredictRequest, context: _Context
    ) -> pb.PredictReply:
        """Evaluate a list of systems."""
        return await self._answer(context, self._predict(request, context))

    async def PredictStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamRequest], context: _Context
    ) -> AsyncIterator[pb.StreamReply]:
        """Evaluate one system after another."""
        del request_iterator  # which cannot be left waiting when the service stops
        _set_request_id(context)
        try:
            _set_urgency(context)
        except ServiceError as error:
            await _abort(context, error)
        decoder, walker = StreamDecoder(), Walker()
        model = ""
        while (message := await self._read(context)) is not grpc.aio.EOF:
            model = message.model or model
            yield await self._stream_reply(decoder, walker, message, model, context)

    async def Nonconservativity(  # noqa: N802
        self, request: pb.NonconservativityRequest, context: _Context
    ) -> pb.NonconservativityReply:
        """Measure how far the forces of a system are from being a gradient."""
        return await self._answer(context, self._nonconservativity(request, context))

    async def Propagate(  # noqa: N802
        self, request: pb.PropagateRequest, context: _Context
    ) -> None:
        """Move a system; what is written waits until the caller takes it."""
        await self._answer(context, self._propagate(request, context))

    async def Relax(  # noqa: N802
        self, request: pb.RelaxRequest, context: _Context
    ) -> None:
        """Relax a system."""
        await self._answer(context, self._relax(request, context))

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: _Context
    ) -> pb.ListModelsReply:
        """Say what each served model declares."""
        del request
        return await self._answer(context, self._list_models())

    async def GetModel(  # noqa: N802
        self, request: pb.GetModelRequest, context: _Context
    ) -> pb.ModelInfo:
        """Say what one model declares."""
        return await self._answer(context, self._get_model(request.model))

    async def drain(self, timeout: float) -> None:
        """End streams that wait for their caller, and wait for the calls being answered."""
        self._draining.set()
        for reader in self._readers:
            reader.cancel()
        try:
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        except TimeoutError:
            return

    async def _answer(self, context: _Context, work: Coroutine[Any, Any, _Reply]) -> _Reply:
        _set_request_id(context)
        try:
            _set_urgency(context)
            return await work
        except ServiceError as error:
            work.close()  # which may not even have begun
            await _abort(context, error)

    async def _predict(self, message: pb.PredictRequest, context: _Context) -> pb.PredictReply:
        with self._counted("grpc", message.model):
            decode = partial(predict_request_from_proto, message)
            wanted = await convert(message.ByteSize(), decode)
            call = Call(self._engine, wanted, _time_remaining(context))
            predictions = await call.predictions()
            encode = partial(predict_reply_to_proto, wanted.model, predictions, wanted.reply_dtype)
            return await convert(reply_bytes(predictions), encode)

    async def _nonconservativity(
        self, message: pb.NonconservativityRequest, context: _Context
    ) -> pb.NonconservativityReply:
        with self._counted("grpc", message.model):
            decode = partial(nonconservativity_request_from_proto, message)
            wanted = await convert(message.ByteSize(), decode)
            found = await self._jacobians.nonconservativity(wanted, _time_remaining(context))
            encode = partial(nonconservativity_reply_to_proto, wanted.model, found)
            return await convert(nonconservativity_bytes(found), encode)

    async def _propagate(self, message: pb.PropagateRequest, context: _Context) -> None:
        with self._counted("grpc", message.model):
            decode = partial(propagate_request_from_proto, message)
            wanted = await convert(message.ByteSize(), decode)
            active = self._dynamics.snapshots(wanted, _time_remaining(context))
            async with aclosing(active) as snapshots:
                async for snapshot in snapshots:
                    encode = partial(snapshot_to_proto, snapshot)
                    await context.write(await convert(snapshot_bytes(snapshot), encode))

    async def _relax(self, message: pb.RelaxRequest, context: _Context) -> None:
        with self._counted("grpc", message.model):
            wanted = await convert(message.ByteSize(), partial(relax_request_from_proto, message))
            relaxing = self._dynamics.relaxations(wanted, _time_remaining(context))
            async with aclosing(relaxing) as replies:
                async for relaxed in replies:
                    encode = partial(relaxed_to_proto, relaxed)
                    await context.write(await convert(relaxed.positions.nbytes, encode))

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
                return await self._step(decoder.decode(message), walker, context)
        except ServiceError as error:
            return stream_reply_to_proto(error)
        finally:
            self._finish()

    async def _step(
        self, wanted: PredictRequest, walker: Walker, context: _Context
    ) -> pb.StreamReply:
        call = Call(self._engine, wanted, _time_remaining(context), walker)
        (prediction,) = await call.predictions()
        return stream_reply_to_proto(prediction, wanted.reply_dtype)

    async def _read(self, context: _Context) -> Any:
        """Return the next message of a stream, unless the service stops first."""
        if self._draining.is_set():
            await _abort(context, _stopping())
        reader = asyncio.current_task()
        assert reader is not None
        self._readers.add(reader)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if not self._draining.is_set():
                raise
            reader.uncancel()
            await _abort(context, _stopping())
        finally:
            self._readers.discard(reader)

    @contextmanager
    def _counted(self, transport: str, model: str) -> Iterator[None]:
        self._begin()
        try:
            with counted(self._metrics, transport, self._engine, model):
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
    """Give the call the name that the caller has for it, or a new one, and tell the caller."""
    metadata = dict(context.invocation_metadata() or ())
    wanted = metadata.get(REQUEST_ID)
    request_id.set(choose_request_id(wanted if isinstance(wanted, str) else None))
    context.set_trailing_metadata(((REQUEST_ID, request_id.get()),))


def _set_urgency(context: _Context) -> None:
    """Take what the caller says of how urgent the call is, or raise `InvalidRequestError`."""
    set_urgency(dict(context.invocation_metadata() or ()).get(URGENCY))


def _time_remaining(context: _Context) -> float | None:
    seconds: float | None = context.time_remaining()
    return seconds


def _stopping() -> UnavailableError:
    return UnavailableError("the service is shutting down", retry_after=1.0)


async def _abort(context: _Context, error: ServiceError) -> NoReturn:
    """End a call with an error of the tree."""
    message = error_to_proto(error)
    message.message = message.message[:_MAX_MESSAGE]
    metadata = (
        (ERROR_METADATA_KEY, message.SerializeToString()),
        (REQUEST_ID, request_id.get()),
    )
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, str(error)[:_MAX_MESSAGE], metadata)
