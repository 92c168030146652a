"""The gRPC servicer of the protocol, whose requests and replies are bytes."""

from functools import partial
from typing import Any

import grpc

from twinforce_proto import PredictRequest
from twinforce_proto.open_inference import protocol_pb2 as pb
from twinforce_service.calls.bounds import CallLimits, parsed
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM, Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.message_sizes import check_size
from twinforce_service.calls.outcomes import CountedOutcome
from twinforce_service.context import permission, urgency
from twinforce_service.engine.engine import Engine
from twinforce_service.transports.grpc_calls import Context, GrpcCalls, time_remaining
from twinforce_service.transports.open_inference.descriptions import (
    check_length,
    describe_config,
    describe_model,
    describe_server,
    find_model,
    is_model_ready,
    list_models,
)
from twinforce_service.transports.open_inference.grpc_messages import (
    parsed_request,
    read_infer,
    write_description,
    write_infer,
)
from twinforce_service.transports.open_inference.infer_reply import reply_to
from twinforce_service.transports.open_inference.infer_request import InferRequest

_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class OpenInferenceServicer:
    """The service of protocol.proto.

    Args:
        engine: Evaluates systems and declares the models.
        calls: Calls to serve.
        intake: Intake of the calls.
        limits: Limits of a call.
        converter: Converts what is large.
        grpc_calls: Rules for the calls, and those that are being answered.
    """

    def __init__(
        self,
        engine: Engine,
        calls: Calls,
        intake: Intake,
        limits: CallLimits,
        converter: Converter,
        grpc_calls: GrpcCalls,
    ) -> None:
        self._engine = engine
        self._call = calls.predict
        self._intake = intake
        self._limits = limits
        self._converter = converter
        self._grpc = grpc_calls

    def handler(self, name: str) -> grpc.GenericRpcHandler:
        """Return what answers the methods of the service under this name."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method.name: grpc.unary_unary_rpc_method_handler(partial(self._answer, method.name))
            for method in _SERVICE.methods
        }
        return grpc.method_handlers_generic_handler(name, handlers)

    async def _answer(self, method: str, data: bytes, context: Context) -> bytes:
        """Return the reply of a method."""
        if method == "ModelInfer":
            return await self._grpc.answer(context, self._infer(data, context))
        return await self._grpc.answer(context, self._describe(method, data))

    async def _infer(self, data: bytes, context: Context) -> bytes:
        with self._grpc.open, self._grpc.outcomes.of("grpc_v2", self._call.scope) as outcome:
            infer, request = await self._read(data, outcome)
            timeout = infer.options.timeout_within(time_remaining(context))
            predictions = await self._call.answer(request, timeout)

            def encode() -> bytes:
                return write_infer(reply_to(infer, request, predictions))

            return await self._converter.convert(self._call.n_bytes(predictions), encode)

    async def _read(
        self, data: bytes, outcome: CountedOutcome
    ) -> tuple[InferRequest, PredictRequest]:
        """Return the request in a message, unless it or its reply is too large."""
        check_size(len(data), self._limits.max_bytes)
        message = await self._converter.convert(len(data), partial(parsed_request, data))
        outcome.model = message.model_name
        permission.get().require(self._call.scope, message.model_name)
        info = find_model(self._engine, message.model_name, message.model_version)
        infer = await self._converter.convert(len(data), partial(read_infer, message, self._limits))
        if infer.options.urgency is not None:
            urgency.set(infer.options.urgency)
        convert = partial(infer.for_model, info, self._limits)
        request = await self._converter.convert(BYTES_PER_SYSTEM * infer.n_systems, convert)
        self._call.check(request)
        self._call.check_reply(request, self._limits.max_bytes)
        return infer, request

    async def _describe(self, method: str, data: bytes) -> bytes:
        """Return the reply of a method that describes the server or a model."""
        kind = _SERVICE.methods_by_name[method]
        check_length(len(data))
        request: Any = parsed(getattr(pb, kind.input_type.name), data)
        values = _DESCRIBED[method](self, request)
        return write_description(getattr(pb, kind.output_type.name), values)

    def _find(self, request: Any) -> Any:
        return find_model(self._engine, request.name, request.version)

    def _is_ready(self) -> bool:
        return self._engine.is_ready and not self._intake.is_closing

    def _is_model_ready(self, request: Any) -> bool:
        return self._is_ready() and is_model_ready(self._engine, self._find(request))


_DESCRIBED: Any = {
    "ServerLive": lambda self, _: {"live": self._engine.is_alive},
    "ServerReady": lambda self, _: {"ready": self._is_ready()},
    "ModelReady": lambda self, request: {"ready": self._is_model_ready(request)},
    "ServerMetadata": lambda _self, _: describe_server(),
    "ModelMetadata": lambda self, request: describe_model(self._find(request)),
    "ModelConfig": lambda self, request: {"config": describe_config(self._find(request))},
    "RepositoryIndex": lambda self, request: {
        "models": list_models(self._engine, only_ready=request.ready)
    },
}
