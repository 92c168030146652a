"""The one method that a transport has, blocking and with asyncio."""

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Literal, Protocol

from google.protobuf.message import Message

from twinforce_proto.v1 import inference_pb2 as pb

Method = Literal[
    "Predict", "PredictStream", "Nonconservativity", "Propagate", "Relax", "ListModels", "GetModel"
]


@dataclass(frozen=True, slots=True)
class Call:
    """Send `message` and hand back the reply, within `timeout` seconds; None: whenever it comes."""

    method: Method
    message: Message
    timeout: float | None


class Transport(Protocol):
    """What a client sends its calls through."""

    def send(self, call: Call) -> Message:
        """Send a message and wait for the reply."""

    def close(self) -> None:
        """Close what is open."""


class Connection(Transport, Protocol):
    """The transport of a client, which walkers can open streams beside."""

    def stream(self) -> Transport:
        """Return a transport for the messages of one walker."""

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a message and yield the replies as they come; ends the call when closed."""


class AsyncTransport(Protocol):
    """What a client sends its calls through."""

    async def send(self, call: Call) -> Message:
        """Send a message and wait for the reply."""

    async def close(self) -> None:
        """Close what is open."""


class AsyncConnection(AsyncTransport, Protocol):
    """The transport of a client, which walkers can open streams beside."""

    def stream(self) -> AsyncTransport:
        """Return a transport for the messages of one walker."""

    def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a message and yield the replies as they come; ends the call when closed."""
