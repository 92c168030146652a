"""The rules for the calls of any gRPC service of this server."""

from collections.abc import Coroutine
from typing import Any, TypeAlias, TypeVar

import grpc

from twinforce_proto import ServiceError
from twinforce_proto.headers import CLIENT_ID, REQUEST_ID, TRACE_PARENT, URGENCY
from twinforce_service.calls.intake import Intake
from twinforce_service.calls.outcomes import Outcomes
from twinforce_service.context import (
    choose_request_id,
    request_id,
    set_peer,
    set_trace_parent,
    set_urgency,
)
from twinforce_service.transports.grpc_connections import GrpcConnections
from twinforce_service.transports.grpc_errors import abort
from twinforce_service.transports.grpc_gate import place_of
from twinforce_service.transports.open_calls import OpenCalls

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_Reply = TypeVar("_Reply")


class GrpcCalls:
    """The calls that are being answered, in whichever service.

    Args:
        outcomes: Outcomes to note.
        intake: Intake of the calls.
        connections: Connections of the clients.

    Attributes:
        outcomes: Outcomes to note.
        open: The calls that are being answered, and the streams that wait for messages.
    """

    def __init__(self, outcomes: Outcomes, intake: Intake, connections: GrpcConnections) -> None:
        self.outcomes = outcomes
        self.open = OpenCalls()
        self._intake = intake
        self._connections = connections

    async def answer(self, context: Context, work: Coroutine[Any, Any, _Reply]) -> _Reply:
        """Return the reply of a call, or end the call with its error."""
        self._intake.note_call()
        try:
            enter(context)
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


def enter(context: Context) -> None:
    """Note the id, the origin, the trace and the urgency of a call, and send its id back.

    Raises:
        InvalidRequestError: The urgency is invalid.
    """
    metadata = dict(context.invocation_metadata() or ())
    given = metadata.get(REQUEST_ID)
    request_id.set(choose_request_id(given if isinstance(given, str) else None))
    context.set_trailing_metadata(((REQUEST_ID, request_id.get()),))
    host, port = place_of(context.peer())
    set_peer(host, port, metadata.get(CLIENT_ID))
    set_trace_parent(metadata.get(TRACE_PARENT))
    set_urgency(metadata.get(URGENCY))


def time_remaining(context: Context) -> float | None:
    """Return the time until the deadline of a call, in s, or None if it has none."""
    seconds: float | None = context.time_remaining()
    return seconds
