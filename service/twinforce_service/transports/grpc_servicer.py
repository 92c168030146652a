"""The gRPC servicer: every method of the inference service."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, TypeAlias

import grpc

from twinforce_proto import ServiceError
from twinforce_proto.codec.messages import model_info_to_proto
from twinforce_proto.codec.status import status_to_proto
from twinforce_proto.codec.stream import stream_reply_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_proto.v1.inference_pb2_grpc import InferenceServicer
from twinforce_service.calls.bounds import CallLimits, parsed, work_of_wire
from twinforce_service.calls.conversion import Converter
from twinforce_service.calls.descriptions import Calls, StreamingCall, UnaryCall
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.message_sizes import check_size
from twinforce_service.calls.outcomes import CountedOutcome
from twinforce_service.context import check_again, has_valid_key, permission
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.grpc_calls import Context, GrpcCalls, enter, time_remaining
from twinforce_service.transports.grpc_connections import GrpcConnections
from twinforce_service.transports.grpc_errors import abort
from twinforce_service.transports.walker_stream import WalkerStream

_Call: TypeAlias = UnaryCall[Any, Any] | StreamingCall[Any, Any]


class GrpcServicer(InferenceServicer):
    """The `Inference` service of inference.proto, whose requests and replies are bytes.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        intake: Intake of the calls.
        limits: Limits of a call.
        converter: Converts what is large.
        connections: Connections of the clients.
        grpc_calls: Rules for the calls, and those that are being answered.
    """

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        intake: Intake,
        limits: CallLimits,
        converter: Converter,
        connections: GrpcConnections,
        grpc_calls: GrpcCalls,
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._calls = calls
        self._intake = intake
        self._limits = limits
        self._converter = converter
        self._grpc = grpc_calls

    async def Predict(self, request: bytes, context: Context) -> bytes:  # noqa: N802
        """Evaluate a list of systems."""
        return await self._grpc.answer(context, self._unary(self._calls.predict, request, context))

    async def PredictStream(  # noqa: N802
        self, request_iterator: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Evaluate one system after another."""
        del request_iterator  # waiting for it cannot be interrupted when the service stops
        self._intake.note_call()
        try:
            enter(context)
        except ServiceError as error:
            await abort(context, error)
        stream = WalkerStream(self._calls, self._limits, self._converter, context)
        peer, call = context.peer(), self._calls.predict.scope
        open_calls, outcomes = self._grpc.open, self._grpc.outcomes
        while (data := await open_calls.read(context)) is not grpc.aio.EOF:
            try:
                check_again.get()()
            except ServiceError as error:
                await abort(context, error)
            outcome = outcomes.of_step("grpc_stream", call, stream.model)
            try:
                with open_calls, outcome:
                    reply = await stream.reply(data, outcome)
            except ServiceError as error:
                reply = stream_reply_to_proto(error).SerializeToString()
            if self._intake.is_closing:
                await self._intake.may_reply()
            number = self._connections.note_reply(peer, len(reply))
            try:
                yield reply
            finally:
                self._connections.note_end(number)

    async def Nonconservativity(  # noqa: N802
        self, request: bytes, context: Context
    ) -> bytes:
        """Measure how far the forces of a system are from being a gradient."""
        call = self._calls.nonconservativity
        return await self._grpc.answer(context, self._unary(call, request, context))

    async def Propagate(  # noqa: N802
        self, request: bytes, context: Context
    ) -> None:
        """Move a system and write its snapshots as fast as the client reads them."""
        await self._grpc.answer(context, self._stream(self._calls.propagate, request, context))

    async def Relax(self, request: bytes, context: Context) -> None:  # noqa: N802
        """Relax a system and write its reports as fast as the client reads them."""
        await self._grpc.answer(context, self._stream(self._calls.relax, request, context))

    async def ListModels(  # noqa: N802
        self, request: bytes, context: Context
    ) -> bytes:
        """Return the capabilities of each served model."""
        del request
        return await self._grpc.answer(context, self._list_models())

    async def GetModel(  # noqa: N802
        self, request: bytes, context: Context
    ) -> bytes:
        """Return the capabilities of one model."""
        return await self._grpc.answer(context, self._get_model(request))

    async def GetStatus(  # noqa: N802
        self, request: bytes, context: Context
    ) -> bytes:
        """Return the state of the service."""
        del request
        return await self._grpc.answer(context, self._get_status())

    async def _unary(self, call: UnaryCall[Any, Any], data: bytes, context: Context) -> bytes:
        with self._grpc.open, self._grpc.outcomes.of("grpc", call.scope) as outcome:
            request = await self._decode(call, data, outcome)
            reply = await call.answer(request, time_remaining(context))
            return await self._encode(call, request, reply)

    async def _stream(self, call: StreamingCall[Any, Any], data: bytes, context: Context) -> None:
        with self._grpc.open, self._grpc.outcomes.of("grpc", call.scope) as outcome:
            request = await self._decode(call, data, outcome)
            async with aclosing(call.answer(request, time_remaining(context))) as replies:
                was_valid = True
                async for reply in replies:
                    # What began with a valid key is sent, so that each call makes progress.
                    check_again.get()(may_be_expired=was_valid)
                    was_valid = has_valid_key()
                    await context.write(await self._encode(call, request, reply))

    async def _decode(self, call: _Call, data: bytes, outcome: CountedOutcome) -> Any:
        """Return the request in a message, unless it or its reply is too large."""
        check_size(len(data), self._limits.max_bytes)
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
        check_size(len(data), self._limits.max_bytes)
        name = parsed(pb.GetModelRequest, data).model
        permission.get().require_model(name)
        return model_info_to_proto(self._engine.find(name)).SerializeToString()

    async def _get_status(self) -> bytes:
        return status_to_proto(self._calls.status.of_caller()).SerializeToString()
