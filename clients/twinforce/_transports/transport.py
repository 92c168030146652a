"""The interface of transports, blocking and with asyncio, and the errors they share."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from google.protobuf.message import Message

from twinforce._transports.proxies import Route
from twinforce._transports.url import Url
from twinforce_proto import DeadlineExceededError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

# Hints for addresses that are likely wrong.
HTTP_PORT = "it does not speak gRPC; if this is the port of REST, the url begins with http://"
GRPC_PORT = "it does not speak HTTP/1.1; if this is the port of gRPC, the url begins with grpc://"
NO_TLS = "it does not use TLS; the url of such a service begins with {plain}://"
TLS = "if it uses TLS, the url begins with {secure}://"
UNTRUSTED = "its certificate is not trusted"
NO_CERTIFICATE = "it may ask clients for a certificate, or not trust the one that was given"
NO_SUCH_HOST = "there is no host of this name"
PROXY_REFUSES = "the proxy refuses to connect"
ANOTHER = "another program answers there, or a TwinForce that does not have this call"

Method = Literal[
    "Predict",
    "PredictStream",
    "Nonconservativity",
    "Propagate",
    "Relax",
    "ListModels",
    "GetModel",
    "GetStatus",
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the service.

    Attributes:
        method: Name of the method, as in `inference.proto`.
        message: The request.
        timeout: Seconds to wait for the reply; None means no limit.
        n_lost: Number of earlier attempts whose reply was given up as lost.
        trace: Headers of the span that it belongs to, if the program records spans.
    """

    method: Method
    message: Message
    timeout: float | None
    n_lost: int = 0
    trace: dict[str, str] = field(default_factory=dict)


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


class MisdirectedError(UnavailableError):
    """The address is at fault rather than the service, so that waiting for it makes no sense."""


class MissingMethodError(MisdirectedError):
    """The program that answers does not have this method."""


class LostReplyError(UnavailableError):
    """The service has answered, or does not know the request, and no reply has arrived."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The times, in s, after which a connection counts as dead.

    Attributes:
        interval: Time without traffic after which the other end is asked for a sign of life.
        patience: Time that it has to give one.
        connect: Time that opening a connection may take.
        connect_replica: The same where other replicas may answer sooner.
    """

    interval: float = 5.0
    patience: float = 8.0
    connect: float = 8.0
    connect_replica: float = 3.0

    def connect_to(self, url: Url) -> float:
        """Return the time that opening a connection may take."""
        return self.connect_replica if url.is_replica else self.connect


KEEP_ALIVE = KeepAlive()


def deadline_exceeded(route: Route, timeout: float | None) -> DeadlineExceededError:
    """Return the error for a reply that did not arrive in time.

    Args:
        route: Way to the service.
        timeout: Time limit of the client, in s; None if the limit was that of somebody else.
    """
    within = "in time" if timeout is None else f"within {timeout:.3g} s"
    return DeadlineExceededError(f"no answer from {route} {within}")


def unreachable(route: Route, reason: object) -> UnavailableError:
    """Return the error for a service that cannot be reached."""
    return UnavailableError(f"cannot reach {route}: {reason}")


def misdirected(route: Route, reason: object, hint: str) -> MisdirectedError:
    """Return the error for an address that cannot be that of the service.

    Args:
        route: Way to the service.
        reason: Error that was met.
        hint: What is likely wrong; may hold `{plain}` and `{secure}`, the schemes of the transport.
    """
    return MisdirectedError(f"cannot reach {route}: {with_schemes(hint, route)}: {reason}")


def with_schemes(hint: str, route: Route) -> str:
    """Return a hint with the schemes of the transport filled in."""
    plain = "grpc" if route.url.transport == "grpc" else "http"
    return hint.format(plain=plain, secure=f"{plain}s")
