"""Several replicas of a service: calls go to those that answer, and walkers stay with theirs.

Attempts are repeated elsewhere; here a failure only sends the next attempt to another replica.
"""

import random
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Generic, TypeVar
from weakref import WeakSet

from google.protobuf.message import Message

from twinforce._transports.transport import (
    AsyncConnection,
    AsyncTransport,
    Call,
    Connection,
    MisdirectedError,
    Transport,
)
from twinforce_proto import OverloadedError, ServiceError, UnavailableError
from twinforce_proto.v1 import inference_pb2 as pb

# Time in s for which a replica that failed is left alone while others answer; it doubles, and is at
# least the time that the replica asks for.
_SHORTEST_REST_S, _LONGEST_REST_S = 0.25, 5.0

# Errors after which another replica may answer.
_ELSEWHERE = (UnavailableError, OverloadedError)

_Connection = TypeVar("_Connection")


class Replica(Generic[_Connection]):
    """One of the replicas, and how it has fared.

    Args:
        connect: Function that makes a connection to it.

    Attributes:
        walkers: Walkers that use it.
        rests_until: Time until which others are preferred.
        is_misdirected: True if its address was at fault in the last attempt.
    """

    def __init__(self, connect: Callable[[], _Connection]) -> None:
        self._connect = connect
        self._opened: dict[str, _Connection] = {}
        self.walkers: WeakSet[object] = WeakSet()
        self.rests_until = 0.0
        self.is_misdirected = False
        self._n_failures = 0

    @property
    def connection(self) -> _Connection:
        """The connection, made when first used; of two threads that make one, one prevails."""
        if (opened := self.opened) is not None:
            return opened
        return self._opened.setdefault("connection", self._connect())

    @property
    def opened(self) -> _Connection | None:
        """The connection, if there is one."""
        return self._opened.get("connection")

    def note_reply(self) -> None:
        """Note that it answers."""
        self._n_failures, self.rests_until, self.is_misdirected = 0, 0.0, False

    def note_failure(self, error: ServiceError, now: float) -> None:
        """Note that it did not answer, or is overloaded."""
        rest = min(_SHORTEST_REST_S * 2.0**self._n_failures, _LONGEST_REST_S)
        self._n_failures += 1
        self.rests_until = now + max(rest, error.retry_after or 0.0)
        self.is_misdirected = isinstance(error, MisdirectedError)


class Replicas(Generic[_Connection]):
    """The choice among several replicas.

    It takes no lock, which a fork could leave locked; at worst, two walkers choose the same one.

    Args:
        connects: A function for each replica that makes a connection to it.
        clock: Time in s.
    """

    def __init__(
        self,
        connects: Sequence[Callable[[], _Connection]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.all = [Replica(each) for each in connects]

    def choose(self) -> Replica[_Connection]:
        """Return the replica for the next call or walker.

        That is one with the fewest walkers of this client, by lot, of those that answer. If none
        does, it is the one that was left alone for the longest time.
        """
        now = self._clock()
        awake = [each for each in self.all if each.rests_until <= now]
        if not awake:
            return min(self.all, key=lambda each: each.rests_until)
        fewest = min(len(each.walkers) for each in awake)
        # Many clients start at once; nobody gains from guessing where they go.
        return random.choice([e for e in awake if len(e.walkers) == fewest])  # noqa: S311

    def settle(self, walker: object) -> Replica[_Connection]:
        """Return the replica for a new walker, which counts there from now on."""
        replica = self.choose()
        replica.walkers.add(walker)
        return replica

    @contextmanager
    def noting(self, replica: Replica[_Connection]) -> Iterator[None]:
        """Note how a call of a replica ends.

        Raises:
            UnavailableError: The replica does not answer, or not yet; also in place of a
                `MisdirectedError`, as long as another address may do.
            OverloadedError: Its queue is full. Neither asks for a wait if another one may answer.
        """
        try:
            yield
        except _ELSEWHERE as error:
            now = self._clock()
            replica.note_failure(error, now)
            if error.retry_after is not None and any(e.rests_until <= now for e in self.all):
                error.retry_after = 0.0
            if replica.is_misdirected and not all(each.is_misdirected for each in self.all):
                raise UnavailableError(str(error)) from error
            raise
        replica.note_reply()


class ReplicatedConnection:
    """The connection of a blocking client to several replicas."""

    def __init__(self, connects: Sequence[Callable[[], Connection]]) -> None:
        self._replicas = Replicas(connects)

    def send(self, call: Call) -> Message:
        """Send a call to a replica and wait for the reply."""
        replica = self._replicas.choose()
        with self._replicas.noting(replica):
            return replica.connection.send(call)

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call to a replica and yield the replies; closing the generator cancels it."""
        run = _Walker()
        replica = self._replicas.settle(run)
        with self._replicas.noting(replica), closing(replica.connection.receive(call)) as replies:
            for reply in replies:  # noqa: UP028
                yield reply

    def stream(self) -> "ReplicatedStream":
        """Return a transport for the calls of one walker."""
        return ReplicatedStream(self._replicas)

    def close(self) -> None:
        """Close all connections."""
        for each in self._replicas.all:
            if (opened := each.opened) is not None:
                opened.close()


class ReplicatedStream:
    """The calls of one walker, which moves to another replica after a failure."""

    def __init__(self, replicas: Replicas[Connection]) -> None:
        self._replicas = replicas
        self._open: tuple[Replica[Connection], Transport] | None = None

    def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; after a failure the next one goes elsewhere."""
        if (opened := self._open) is None:
            replica = self._replicas.settle(self)
            self._open = opened = replica, replica.connection.stream()
        replica, transport = opened
        try:
            with self._replicas.noting(replica):
                return transport.send(call)
        except _ELSEWHERE:
            self.close()
            raise

    def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            replica, transport = opened
            replica.walkers.discard(self)
            transport.close()


class AsyncReplicatedConnection:
    """The asyncio counterpart of `ReplicatedConnection`."""

    def __init__(self, connects: Sequence[Callable[[], AsyncConnection]]) -> None:
        self._replicas = Replicas(connects)

    async def send(self, call: Call) -> Message:
        """Send a call to a replica and wait for the reply."""
        replica = self._replicas.choose()
        with self._replicas.noting(replica):
            return await replica.connection.send(call)

    async def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call to a replica and yield the replies; closing the generator cancels it."""
        run = _Walker()
        replica = self._replicas.settle(run)
        with self._replicas.noting(replica):
            async with aclosing(replica.connection.receive(call)) as replies:
                async for reply in replies:
                    yield reply

    def stream(self) -> "AsyncReplicatedStream":
        """Return a transport for the calls of one walker."""
        return AsyncReplicatedStream(self._replicas)

    async def close(self) -> None:
        """Close all connections."""
        for each in self._replicas.all:
            if (opened := each.opened) is not None:
                await opened.close()


class AsyncReplicatedStream:
    """The asyncio counterpart of `ReplicatedStream`."""

    def __init__(self, replicas: Replicas[AsyncConnection]) -> None:
        self._replicas = replicas
        self._open: tuple[Replica[AsyncConnection], AsyncTransport] | None = None

    async def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; after a failure the next one goes elsewhere."""
        if (opened := self._open) is None:
            replica = self._replicas.settle(self)
            self._open = opened = replica, replica.connection.stream()
        replica, transport = opened
        try:
            with self._replicas.noting(replica):
                return await transport.send(call)
        except _ELSEWHERE:
            await self.close()
            raise

    async def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            replica, transport = opened
            replica.walkers.discard(self)
            await transport.close()


class _Walker:
    """A run, counted as a walker of its replica for as long as it is followed."""
