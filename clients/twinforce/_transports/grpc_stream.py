"""The stream of one walker over gRPC, for a blocking client."""

import _thread
import weakref
from collections.abc import Callable, Generator
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX
from typing import Any

from google.protobuf.message import Message

from twinforce._connections.forks import waits_for_replies
from twinforce._transports.grpc_errors import service_error
from twinforce._transports.grpc_loading import grpc, outlive_exit
from twinforce._transports.proxies import Route
from twinforce._transports.transport import Call, deadline_exceeded
from twinforce_proto import UnavailableError
from twinforce_proto.headers import TRACE_PARENT
from twinforce_proto.v1.inference_pb2_grpc import InferenceStub

Metadata = tuple[tuple[str, str], ...] | None


class GrpcStream:
    """The calls of one walker over one `PredictStream`, which is reopened after an error."""

    def __init__(self, stub: InferenceStub, route: Route, metadata: Callable[[], Metadata]) -> None:
        self._stub = stub
        self._route = route
        self._metadata = metadata
        self._open: _Correspondence | None = None

    def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; any error closes the stream."""
        correspondence, self._open = self._open, None
        if correspondence is None:
            correspondence = _Correspondence(self._stub, self._metadata())
        try:
            reply = self._checked(correspondence.exchange(call), call)
        except BaseException:
            correspondence.end()
            raise
        # Put back only now: wherever an exception strikes, no reply is taken for that of another.
        self._open = correspondence
        return reply

    def close(self) -> None:
        """End the stream, if there is one."""
        correspondence, self._open = self._open, None
        if correspondence is not None:
            correspondence.end()

    def _checked(self, reply: Message | Exception | None, call: Call) -> Message:
        if isinstance(reply, Message):
            return reply
        if reply is None:
            raise stream_ended(self._route)
        if isinstance(reply, Empty):
            raise deadline_exceeded(self._route, call.timeout)
        if isinstance(reply, grpc.RpcError):
            raise service_error(reply, self._route, call.timeout) from reply
        raise reply


class _Correspondence:
    """One `PredictStream`, opened, read and canceled by threads that hear no signals.

    An exception from a signal handler, such as that of Ctrl-C, would leave locks of gRPC held in
    which its other threads then wait for good. The queues in between are safe to interrupt, to
    use from a destructor, and to find in a process that was forked, where nobody serves them.
    """

    def __init__(self, stub: InferenceStub, metadata: Metadata) -> None:
        self._requests: SimpleQueue[Message | None] = SimpleQueue()
        self._replies: SimpleQueue[Message | Exception | None] = SimpleQueue()
        # A finalizer also runs at exit, before the threads of gRPC are gone.
        self.end = weakref.finalize(self, self._requests.put, None)
        # Not by `Thread.start`, which waits for the thread by a condition that an interrupt breaks.
        arguments = (stub, metadata, self._requests, self._replies)
        _thread.start_new_thread(_correspond, arguments)

    def exchange(self, call: Call) -> Message | Exception | None:
        """Return the reply to a message, or what came instead; `Empty` if nothing did in time."""
        self._requests.put(traced_message(call))
        timeout = None if call.timeout is None else min(call.timeout, TIMEOUT_MAX)
        try:
            return self._replies.get(timeout=timeout)
        except Empty as error:
            return error


waits_for_replies(_Correspondence.exchange.__code__)


def _correspond(
    stub: InferenceStub,
    metadata: Metadata,
    requests: "SimpleQueue[Message | None]",
    replies: "SimpleQueue[Message | Exception | None]",
) -> None:
    """Send the requests up to None and pass on the replies, or the error that ends them."""
    opened: SimpleQueue[Any] = SimpleQueue()
    try:
        call = stub.PredictStream(_messages(requests, opened), metadata=metadata)
        outlive_exit(call)
        opened.put(call)
        for reply in call:
            replies.put(reply)
        replies.put(None)
    except Exception as error:
        replies.put(error)


def _messages(
    requests: "SimpleQueue[Message | None]", opened: "SimpleQueue[Any]"
) -> Generator[Message, None, None]:
    """Yield the requests and then cancel the call, from the thread of gRPC that sends them."""
    while (message := requests.get()) is not None:
        yield message
    opened.get().cancel()


def traced_message(call: Call) -> Message:
    """Return the message of a step, which names the span that it belongs to, if there is one."""
    if call.trace:
        message: Any = call.message
        message.traceparent = call.trace[TRACE_PARENT]
    return call.message


def stream_ended(route: Route) -> UnavailableError:
    """Return the error for a stream that the service ended."""
    return UnavailableError(f"{route} ended the stream")
