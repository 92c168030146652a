"""The interface of transports, blocking and with asyncio, and the errors they share."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Literal, Protocol

from google.protobuf.message import Message

from twinforce._transports.url import Url
from twinforce_proto import DeadlineExceededError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

Method = Literal[
    "Predict", "PredictStream", "Nonconservativity", "Propagate", "Relax", "ListModels", "GetModel"
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the service.

    Attributes:
        method: Name of the method, as in `inference.proto`.
        message: The request.
        timeout: Seconds to wait for the reply; None means no limit.
    """

    method: Method
    message: Message
    timeout: float | None


class Transport(Protocol):
    """A way to send calls that each have one reply."""

    def send(self, call: Call) -> Message:
        """Send a call and wait for the reply."""

    def close(self) -> None:
        """Close what is open."""


class Connection(Transport, Protocol):
    """The transport of a client, which also opens streams and receives streamed replies."""

    def stream(self) -> Transport:
        """Return a transport for the calls of one walker."""

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""


class AsyncTransport(Protocol):
    """The asyncio counterpart of `Transport`."""

    async def send(self, call: Call) -> Message:
        """Send a call and wait for the reply."""

    async def close(self) -> None:
        """Close what is open."""


class AsyncConnection(AsyncTransport, Protocol):
    """The asyncio counterpart of `Connection`."""

    def stream(self) -> AsyncTransport:
        """Return a transport for the calls of one walker."""

    def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""


def deadline_exceeded(url: Url, timeout: float | None) -> DeadlineExceededError:
    """Return the error for a reply that did not arrive in time."""
    return DeadlineExceededError(f"no answer from {url} within {timeout or 0.0:.3g} s")


def unreachable(url: Url, reason: object) -> UnavailableError:
    """Return the error for a service that cannot be reached."""
    return UnavailableError(f"cannot reach {url}: {reason}")
