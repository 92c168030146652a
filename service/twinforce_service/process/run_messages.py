"""The messages of runs between the API process and an engine process.

They carry the protobuf messages of the public interface. The velocities of a start and the arrays
of a snapshot are raw frames: the protobuf messages convert the unit of velocities and so round
them, and take longer. A run is the same to the last bit, whichever process moves it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import orjson

from twinforce_dynamics.codec.propagation import (
    propagate_request_from_proto,
    propagate_request_to_proto,
    snapshot_from_proto,
    snapshot_to_proto,
)
from twinforce_dynamics.codec.relaxation import (
    relax_request_from_proto,
    relax_request_to_proto,
    relaxed_from_proto,
    relaxed_to_proto,
)
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.engine.runs import Run, Update
from twinforce_service.process.channel import Frame
from twinforce_service.process.messages import Kind, Message, floats
from twinforce_service.process.request_messages import caller_of, caller_to_list
from twinforce_service.scheduling.request import Walker

# Arrays of a snapshot, in the order of their frames.
_SNAPSHOT_ARRAYS = {"positions": (-1, 3), "velocities": (-1, 3), "cell": (3, 3)}


def run_to_frames(number: int, run: Run) -> list[Frame]:
    """Encode a run, with the number that its updates will carry."""
    request = run.request
    head = (
        number,
        run.credit,
        run.deadline,
        run.request_id,
        run.walker.id,
        run.urgency,
        caller_to_list(run.caller),
        run.connection,
        run.is_suspect,
        run.trace,
    )
    if isinstance(request, RelaxRequest):
        data = relax_request_to_proto(request).SerializeToString()
        return [orjson.dumps((Kind.RELAX, *head)), data]
    frames: list[Frame] = [propagate_request_to_proto(request).SerializeToString()]
    if isinstance(request.origin, Start):
        frames.append(np.ascontiguousarray(request.origin.velocities))
    return [orjson.dumps((Kind.PROPAGATE, *head)), *frames]


def run_from_message(
    message: Message, on_update: Callable[[int, Update, bool], None]
) -> tuple[int, Run]:
    """Decode a run, with its number.

    Args:
        message: A message of this kind.
        on_update: Called with that number, each update, and a bool, True for the last one.

    Raises:
        ServiceError: The request is invalid.
    """
    number, credit, deadline, request_id, walker, urgency, *others = message.head
    caller, connection, is_suspect, trace = others

    def emit(update: Update, is_last: bool) -> None:
        on_update(number, update, is_last)

    request = _relax_request(message) if message.kind is Kind.RELAX else _propagate_request(message)
    run = Run(
        request,
        emit,
        credit,
        deadline,
        request_id,
        Walker(walker),
        urgency,
        caller=caller_of(*caller),
        connection=connection,
        is_suspect=is_suspect,
        trace=trace,
        number=number,
    )
    return number, run


def update_to_frames(number: int, update: Update, *, is_last: bool) -> list[Frame]:
    """Encode an update of the run with this number."""
    if isinstance(update, Snapshot):
        return [
            orjson.dumps((Kind.SNAPSHOT, number, is_last)),
            snapshot_to_proto(update, with_arrays=False).SerializeToString(),
            *(np.ascontiguousarray(getattr(update, name)) for name in _SNAPSHOT_ARRAYS),
        ]
    data = relaxed_to_proto(update).SerializeToString()
    return [orjson.dumps((Kind.RELAXED, number, is_last)), data]


def update_from_message(message: Message) -> tuple[int, Update, bool]:
    """Decode an update, with the number of its run, and a bool, True for the last one."""
    number, is_last = message.head
    data, *raw = message.frames
    if message.kind is Kind.RELAXED:
        return number, relaxed_from_proto(pb.Relaxed.FromString(bytes(data))), is_last
    arrays = {
        name: floats(frame, shape)
        for (name, shape), frame in zip(_SNAPSHOT_ARRAYS.items(), raw, strict=True)
    }
    return number, snapshot_from_proto(pb.Snapshot.FromString(bytes(data)), arrays), is_last


def _relax_request(message: Message) -> RelaxRequest:
    return relax_request_from_proto(pb.RelaxRequest.FromString(bytes(message.frames[0])))


def _propagate_request(message: Message) -> PropagateRequest:
    data, *raw = message.frames
    request = propagate_request_from_proto(pb.PropagateRequest.FromString(bytes(data)))
    origin = request.origin
    if isinstance(origin, bytes):
        return request
    velocities = floats(raw[0], (-1, 3))
    return replace(request, origin=origin.moved(origin.system, velocities, origin.random_state))
