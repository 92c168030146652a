"""The steps of one walker over gRPC: one reply to each message of a stream."""

from functools import partial
from typing import Any

import grpc

from twinforce_proto import Prediction, PredictRequest, ServiceError
from twinforce_proto.codec.stream import StreamDecoder, stream_reply_to_proto
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.calls.bounds import CallLimits, parsed
from twinforce_service.calls.conversion import MAX_BYTES_INLINE, Converter
from twinforce_service.calls.descriptions import Calls
from twinforce_service.calls.message_sizes import check_size
from twinforce_service.calls.outcomes import CountedOutcome
from twinforce_service.context import permission, set_trace_parent, trace_parent
from twinforce_service.scheduling.request import Walker


class WalkerStream:
    """The messages of one stream, each of which is the next step of a walker.

    What is small is converted at once: a coroutine and a closure for each conversion would take
    longer than the conversion.

    Args:
        calls: Calls to serve.
        limits: Limits of a call.
        converter: Converts what is large.
        context: Context of the call.
    """

    def __init__(
        self,
        calls: Calls,
        limits: CallLimits,
        converter: Converter,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        self._calls = calls
        self._limits = limits
        self._converter = converter
        self._context = context
        self._decoder = StreamDecoder()
        self._walker = Walker()
        # Span of the caller, in the metadata of the stream and in the last message.
        self._trace_of_stream, self._trace_of_step = trace_parent.get(), ""

    @property
    def model(self) -> str:
        """Name of the model of the last step, empty before the first."""
        return self._decoder.model

    async def reply(self, data: bytes, outcome: CountedOutcome) -> bytes:
        """Return the reply to a message.

        Args:
            data: The message.
            outcome: Told the name of the model, and when the step begins.

        Raises:
            ServiceError: The message is invalid, or its system was refused or failed.
        """
        check_size(len(data), self._limits.max_bytes)
        if len(data) <= MAX_BYTES_INLINE:
            request = self._decoded(data, outcome)
        else:
            decode = partial(self._decoded_large, data, outcome)
            request = await self._converter.convert_large(decode)
        if (parent := self._trace_of_step or self._trace_of_stream) or trace_parent.get():
            set_trace_parent(parent)
        outcome.begin()
        self._calls.predict.check_reply(request, self._limits.max_bytes)
        timeout: float | None = self._context.time_remaining()
        predictions = await self._calls.step(request, timeout, self._walker)
        encode = partial(_encoded, predictions[0], request.reply_dtype)
        if self._calls.predict.n_bytes(predictions) <= MAX_BYTES_INLINE:
            return encode()
        return await self._converter.convert_large(encode)

    def _decoded_large(self, data: bytes, outcome: CountedOutcome) -> PredictRequest:
        try:
            self._limits.check_wire(data, pb.StreamRequest)
        except ServiceError:
            self._decoder.forget()
            raise
        return self._decoded(data, outcome)

    def _decoded(self, data: bytes, outcome: CountedOutcome) -> PredictRequest:
        try:
            message = parsed(pb.StreamRequest, data)
            self._trace_of_step = message.traceparent
            outcome.model = message.model or outcome.model
            permission.get().require(self._calls.predict.scope, outcome.model)
        except ServiceError:
            self._decoder.forget()
            raise
        return self._decoder.decode(message)


def _encoded(prediction: Prediction, dtype: str) -> bytes:
    return stream_reply_to_proto(prediction, dtype).SerializeToString()
