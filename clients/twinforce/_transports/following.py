"""Connections to a service that may move: they follow its address file.

Attempts are repeated elsewhere; here a failure only leads the next attempt to where the service is
by then.
"""

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from google.protobuf.message import Message

from twinforce._transports.address_file import AddressFile, Server
from twinforce._transports.transport import (
    AsyncConnection,
    AsyncTransport,
    Call,
    Connection,
    MisdirectedError,
    Transport,
)
from twinforce_proto import DeadlineExceededError, UnauthenticatedError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

# Errors after which the service may be found elsewhere, or with another key.
_MOVED = (UnavailableError, UnauthenticatedError, DeadlineExceededError)

_Connection = TypeVar("_Connection")

Servers: TypeAlias = tuple[Server, ...]
"""The servers of a service."""


@dataclass(frozen=True, slots=True)
class Location(Generic[_Connection]):
    """The servers that the file named at one time, and the connection to them."""

    servers: Servers
    connection: _Connection


class Locations(Generic[_Connection]):
    """The location of a service, which is looked up again after a failure.

    It takes no lock, which a fork could leave locked; at worst, two threads connect at once.
    Connections to former locations stay open for as long as they are used.

    Args:
        file: The address file.
        connect: Function that connects to the servers in it.
    """

    def __init__(self, file: AddressFile, connect: Callable[[Servers], _Connection]) -> None:
        self._file = file
        self._connect = connect
        self._now: Location[_Connection] | None = None
        self._opened: WeakValueDictionary[int, _Connection] = WeakValueDictionary()

    @property
    def opened(self) -> list[_Connection]:
        """The connections that are open."""
        return list(self._opened.values())

    def now(self) -> Location[_Connection]:
        """Return the location of the service.

        Raises:
            UnavailableError: The file does not say where it is.
        """
        if (location := self._now) is None:
            servers = self._file.servers()
            location = self._now = Location(servers, self._connect(servers))
            self._opened[id(location.connection)] = location.connection
        return location

    @contextmanager
    def noting(self, location: Location[_Connection]) -> Iterator[None]:
        """Look the location up again if a call there fails.

        Raises:
            UnavailableError: The service does not answer; also in place of a `MisdirectedError`,
                because the address is not that of the user and may change.
        """
        try:
            yield
        except _MOVED as error:
            if self._now is location and self._has_changed(location):
                self._now = None
            if isinstance(error, MisdirectedError):
                raise UnavailableError(str(error)) from error
            raise

    def _has_changed(self, location: Location[_Connection]) -> bool:
        try:
            return self._file.servers() != location.servers
        except MisdirectedError:  # a file that cannot be read now says nothing
            return False
        except UnavailableError:
            return True


class FollowingConnection:
    """The connection of a blocking client to a service that may move."""

    def __init__(self, file: AddressFile, connect: Callable[[Servers], Connection]) -> None:
        self._locations = Locations(file, connect)

    def send(self, call: Call) -> Message:
        """Send a call to the service and wait for the reply."""
        location = self._locations.now()
        with self._locations.noting(location):
            return location.connection.send(call)

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        location = self._locations.now()
        with (
            self._locations.noting(location),
            closing(location.connection.receive(call)) as replies,
        ):
            for reply in replies:  # noqa: UP028
                yield reply

    def stream(self) -> "FollowingStream":
        """Return a transport for the calls of one walker."""
        return FollowingStream(self._locations)

    def close(self) -> None:
        """Close all connections."""
        for each in self._locations.opened:
            each.close()


class FollowingStream:
    """The calls of one walker, which moves with the service."""

    def __init__(self, locations: Locations[Connection]) -> None:
        self._locations = locations
        self._open: tuple[Location[Connection], Transport] | None = None

    def send(self, call: Call) -> Message:
        """Send a message and wait for its reply."""
        if (opened := self._open) is None:
            location = self._locations.now()
            self._open = opened = location, location.connection.stream()
        location, transport = opened
        try:
            with self._locations.noting(location):
                return transport.send(call)
        except _MOVED:
            self.close()
            raise

    def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            opened[1].close()


class AsyncFollowingConnection:
    """The asyncio counterpart of `FollowingConnection`."""

    def __init__(self, file: AddressFile, connect: Callable[[Servers], AsyncConnection]) -> None:
        self._locations = Locations(file, connect)

    async def send(self, call: Call) -> Message:
        """Send a call to the service and wait for the reply."""
        location = self._locations.now()
        with self._locations.noting(location):
            return await location.connection.send(call)

    async def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call and yield the replies as they arrive; closing the generator cancels it."""
        location = self._locations.now()
        with self._locations.noting(location):
            async with aclosing(location.connection.receive(call)) as replies:
                async for reply in replies:
                    yield reply

    def stream(self) -> "AsyncFollowingStream":
        """Return a transport for the calls of one walker."""
        return AsyncFollowingStream(self._locations)

    async def close(self) -> None:
        """Close all connections."""
        for each in self._locations.opened:
            await each.close()


class AsyncFollowingStream:
    """The asyncio counterpart of `FollowingStream`."""

    def __init__(self, locations: Locations[AsyncConnection]) -> None:
        self._locations = locations
        self._open: tuple[Location[AsyncConnection], AsyncTransport] | None = None

    async def send(self, call: Call) -> Message:
        """Send a message and wait for its reply."""
        if (opened := self._open) is None:
            location = self._locations.now()
            self._open = opened = location, location.connection.stream()
        location, transport = opened
        try:
            with self._locations.noting(location):
                return await transport.send(call)
        except _MOVED:
            await self.close()
            raise

    async def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            await opened[1].close()
