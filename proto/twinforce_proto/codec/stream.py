"""Encoding and decoding of a `PredictStream`, whose messages carry a whole system or only a move.

There is no I/O here: a transport sends what `StreamEncoder` returns, or submits what
`StreamDecoder` returns.
"""

from twinforce_proto.codec.arrays import (
    array_from_proto,
    bytes_of,
    dtype_from_proto,
    dtype_to_proto,
)
from twinforce_proto.codec.messages import (
    cell_from_proto,
    error_from_proto,
    error_to_proto,
    outputs_from_proto,
    outputs_to_proto,
    prediction_from_proto,
    provenance_from_proto,
    provenance_to_proto,
    system_from_proto,
    system_to_proto,
    timings_from_proto,
    write_prediction,
    write_timings,
)
from twinforce_proto.errors import InvalidRequestError, PredictionError, ServiceError
from twinforce_proto.outputs import parse_outputs
from twinforce_proto.prediction import Prediction, PredictRequest
from twinforce_proto.system import System
from twinforce_proto.v1 import inference_pb2 as pb


class StreamEncoder:
    """Encoder of the messages of a stream, which leaves out what the service already has.

    Args:
        model: Name of the model.
        reply_dtype: Type of the arrays in the replies, "float64" or "float32".
    """

    def __init__(self, model: str, reply_dtype: str = "float64") -> None:
        self._model = model
        self._reply_dtype = dtype_to_proto(reply_dtype)
        self._composition: tuple[object, ...] | None = None
        self._cell = b""
        self._outputs: frozenset[str] = frozenset()

    def encode(self, system: System, outputs: frozenset[str]) -> pb.StreamRequest:
        """Return the message for this system; it is a move if only the coordinates are new."""
        message = self._first_message() if self._composition is None else pb.StreamRequest()
        outputs = outputs if outputs == self._outputs else parse_outputs(outputs)
        if outputs != self._outputs:
            message.outputs.extend(outputs_to_proto(outputs))
        composition, cell = _composition(system), system.cell.tobytes()
        if composition == self._composition:
            message.move.positions.data = bytes_of(system.positions)
            if cell != self._cell:
                message.move.cell.data = bytes_of(system.cell)
        else:
            message.system.CopyFrom(system_to_proto(system))
        self._composition, self._cell, self._outputs = composition, cell, outputs
        return message

    def reset(self) -> None:
        """Forget what was sent, so that the next message carries a whole system."""
        self._composition, self._cell, self._outputs = None, b"", frozenset()

    def _first_message(self) -> pb.StreamRequest:
        return pb.StreamRequest(model=self._model, reply_dtype=self._reply_dtype)


class StreamDecoder:
    """Decoder of the messages of a stream, which completes them from the previous request.

    After an invalid message the previous request is forgotten.
    """

    def __init__(self) -> None:
        self._last: PredictRequest | None = None

    @property
    def model(self) -> str:
        """Name of the model of the previous request, empty if there is none."""
        return "" if self._last is None else self._last.model

    def forget(self) -> None:
        """Forget the previous request, so that the next message counts as the first."""
        self._last = None

    def decode(self, message: pb.StreamRequest) -> PredictRequest:
        """Return the request for one system that this message stands for.

        Raises:
            InvalidRequestError: There is no system to move, or no model was named.
            InvalidSystemError: The system is invalid.
        """
        last, self._last = self._last, None
        self._last = _first_request(message) if last is None else _next_request(message, last)
        return self._last


def stream_reply_to_proto(
    outcome: Prediction | ServiceError, dtype: str = "float64"
) -> pb.StreamReply:
    """Encode the reply to one message of a stream."""
    if isinstance(outcome, ServiceError):
        return pb.StreamReply(error=error_to_proto(outcome))
    message = pb.StreamReply()
    message.prediction.SetInParent()
    write_prediction(message.prediction, outcome, dtype)
    if (provenance := provenance_to_proto(outcome.provenance)) is not None:
        message.provenance.CopyFrom(provenance)
    if outcome.timings is not None:
        write_timings(message.timings, outcome.timings)
    return message


def stream_reply_from_proto(message: pb.StreamReply) -> Prediction:
    """Decode the reply to one message of a stream.

    Raises:
        ServiceError: The reply is an error.
    """
    if message.HasField("error"):
        raise error_from_proto(message.error)
    if not message.HasField("prediction"):
        raise PredictionError.expected("reply", "a prediction or an error", "neither")
    return prediction_from_proto(
        message.prediction, provenance_from_proto(message), timings_from_proto(message)
    )


def _composition(system: System) -> tuple[object, ...]:
    """Return copies of what a move cannot change; the caller may write to its arrays later."""
    return (
        system.atomic_numbers.tobytes(),
        system.pbc.tobytes(),
        system.charge,
        system.spin_multiplicity,
    )


def _first_request(message: pb.StreamRequest) -> PredictRequest:
    place = "in the first message of a stream and after an invalid one"
    if not message.HasField("system"):
        raise InvalidRequestError.expected("system", f"a whole system {place}", "none")
    if not message.model:
        raise InvalidRequestError.expected("model", f"a name {place}", "none")
    return PredictRequest(
        model=message.model,
        systems=(system_from_proto(message.system),),
        outputs=outputs_from_proto(message.outputs),
        reply_dtype=dtype_from_proto(message.reply_dtype),
    )


def _next_request(message: pb.StreamRequest, last: PredictRequest) -> PredictRequest:
    has_dtype, numbers = message.HasField("reply_dtype"), message.outputs
    return PredictRequest(
        message.model or last.model,
        (_system_of(message, last.systems[0]),),
        outputs_from_proto(numbers) if numbers else last.outputs,
        dtype_from_proto(message.reply_dtype) if has_dtype else last.reply_dtype,
    )


def _system_of(message: pb.StreamRequest, last: System) -> System:
    match message.WhichOneof("input"):
        case "move":
            move = message.move
            positions = array_from_proto(move.positions, "positions", (-1, 3))
            return last.moved(positions, cell_from_proto(move))
        case "system":
            return system_from_proto(message.system)
        case _:
            raise InvalidRequestError.expected("input", "a system or a move", "neither")
