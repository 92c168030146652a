"""Both ends of a `PredictStream`: which messages carry a whole system and which only move it.

No I/O: the transports send what `StreamEncoder` gives and submit what `StreamDecoder` gives.
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
    prediction_to_proto,
    provenance_from_proto,
    provenance_to_proto,
    system_from_proto,
    system_to_proto,
    timings_from_proto,
    timings_to_proto,
)
from twinforce_proto.errors import InvalidRequestError, PredictionError, ServiceError
from twinforce_proto.outputs import parse_outputs
from twinforce_proto.prediction import Prediction, PredictRequest
from twinforce_proto.system import System
from twinforce_proto.v1 import inference_pb2 as pb


class StreamEncoder:
    """The caller's end: remembers what the service was told last."""

    def __init__(self, model: str, reply_dtype: str = "float64") -> None:
        self._model = model
        self._reply_dtype = dtype_to_proto(reply_dtype)
        self._composition: tuple[object, ...] | None = None
        self._cell = b""
        self._outputs: frozenset[str] = frozenset()

    def encode(self, system: System, outputs: frozenset[str]) -> pb.StreamRequest:
        """Return the message for this system: a move where it is the last one, moved."""
        message = self._opening() if self._composition is None else pb.StreamRequest()
        wanted = outputs if outputs == self._outputs else parse_outputs(outputs)
        if wanted != self._outputs:
            message.outputs.extend(outputs_to_proto(wanted))
        composition, cell = _composition(system), system.cell.tobytes()
        if composition == self._composition:
            message.move.positions.data = bytes_of(system.positions)
            if cell != self._cell:
                message.move.cell.data = bytes_of(system.cell)
        else:
            message.system.CopyFrom(system_to_proto(system))
        self._composition, self._cell, self._outputs = composition, cell, wanted
        return message

    def reset(self) -> None:
        """Send a whole system next, as after an error the service may have forgotten the last."""
        self._composition, self._cell, self._outputs = None, b"", frozenset()

    def _opening(self) -> pb.StreamRequest:
        return pb.StreamRequest(model=self._model, reply_dtype=self._reply_dtype)


class StreamDecoder:
    """The service's end: remembers the last request, and forgets it when one cannot be read."""

    def __init__(self) -> None:
        self._last: PredictRequest | None = None

    def decode(self, message: pb.StreamRequest) -> PredictRequest:
        """Return the request, of one system, that this message stands for.

        Raises:
            InvalidRequestError: When there is nothing to move, or no model was named.
            InvalidSystemError: When the system is; the next message must carry a whole one.
        """
        last, self._last = self._last, None
        self._last = _first(message) if last is None else _next(message, last)
        return self._last


def stream_reply_to_proto(
    outcome: Prediction | ServiceError, dtype: str = "float64"
) -> pb.StreamReply:
    """Encode what one message of a stream is answered with."""
    if isinstance(outcome, ServiceError):
        return pb.StreamReply(error=error_to_proto(outcome))
    return pb.StreamReply(
        prediction=prediction_to_proto(outcome, dtype),
        provenance=provenance_to_proto(outcome.provenance),
        timings=timings_to_proto(outcome.timings),
    )


def stream_reply_from_proto(message: pb.StreamReply) -> Prediction:
    """Decode what one message of a stream was answered with.

    Raises:
        ServiceError: The one that the service answered with.
    """
    if message.HasField("error"):
        raise error_from_proto(message.error)
    if not message.HasField("prediction"):
        raise PredictionError("reply: expected a prediction or an error, got neither")
    return prediction_from_proto(
        message.prediction, provenance_from_proto(message), timings_from_proto(message)
    )


def _composition(system: System) -> tuple[object, ...]:
    """What a move cannot change; copied, as the caller may go on writing to its own arrays."""
    return (
        system.atomic_numbers.tobytes(),
        system.pbc.tobytes(),
        system.charge,
        system.spin_multiplicity,
    )


def _first(message: pb.StreamRequest) -> PredictRequest:
    if not message.HasField("system"):
        raise InvalidRequestError(
            "system: expected a whole system in the first message of a stream and after one that "
            "could not be read",
            field="system",
        )
    if not message.model:
        raise InvalidRequestError(
            "model: expected a name in the first message of a stream and after one that could "
            "not be read",
            field="model",
        )
    return PredictRequest(
        model=message.model,
        systems=(system_from_proto(message.system),),
        outputs=outputs_from_proto(message.outputs),
        reply_dtype=dtype_from_proto(message.reply_dtype),
    )


def _next(message: pb.StreamRequest, last: PredictRequest) -> PredictRequest:
    has_dtype = message.HasField("reply_dtype")
    return PredictRequest(
        model=message.model or last.model,
        systems=(_system(message, last.systems[0]),),
        outputs=outputs_from_proto(message.outputs) if message.outputs else last.outputs,
        reply_dtype=dtype_from_proto(message.reply_dtype) if has_dtype else last.reply_dtype,
    )


def _system(message: pb.StreamRequest, last: System) -> System:
    if message.HasField("system"):
        return system_from_proto(message.system)
    if not message.HasField("move"):
        raise InvalidRequestError("input: expected a system or a move, got neither", field="input")
    positions = array_from_proto(message.move.positions, "positions", (-1, 3))
    return last.moved(positions, cell_from_proto(message.move))
