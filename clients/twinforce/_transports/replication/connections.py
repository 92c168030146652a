"""The connections of clients to several replicas, which a list or the names of hosts stand for."""

import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing

from google.protobuf.message import Message

from twinforce._transports.replication.names import Names
from twinforce._transports.replication.replica import Replica
from twinforce._transports.replication.replicas import ELSEWHERE, Replicas
from twinforce._transports.replication.second_look import SecondLooks
from twinforce._transports.transport import (
    AsyncConnection,
    AsyncTransport,
    Call,
    Connection,
    Transport,
)
from twinforce._transports.url import Url
from twinforce_proto import ServiceError
from twinforce_proto.v1 import inference_pb2 as pb


class ReplicatedConnection:
    """The connection of a blocking client to several replicas.

    Args:
        urls: URL of each host.
        connect: Function that makes a connection to a replica.
    """

    def __init__(self, urls: Sequence[Url], connect: Callable[[Url], Connection]) -> None:
        self._names = Names(urls)
        self._connect = connect
        self._replicas: Replicas[Connection] = Replicas()

    def send(self, call: Call) -> Message:
        """Send a call to a replica and wait for the reply."""
        mark = _Mark()
        replica = self.replicas(call.timeout).assign(mark)
        with self._replicas.noting(replica):
            reply = replica.connection.send(call)
            self._replicas.note_reply(replica, reply)
            return reply

    def receive(self, call: Call) -> Generator[pb.Snapshot | pb.Relaxed, None, None]:
        """Send a call to a replica and yield the replies; closing the generator cancels it."""
        mark = _Mark()
        replica = self.replicas(call.timeout).assign(mark)
        with self._replicas.noting(replica), closing(replica.connection.receive(call)) as replies:
            for reply in replies:
                self._replicas.note_reply(replica, reply)
                yield reply

    def stream(self) -> "ReplicatedStream":
        """Return a transport for the calls of one walker."""
        return ReplicatedStream(self)

    def close(self) -> None:
        """Close all connections."""
        for each in self._replicas.all_and_former():
            if (opened := each.opened) is not None:
                opened.close()

    def replicas(self, timeout: float | None) -> Replicas[Connection]:
        """Return the replicas as the names stand for them now.

        Args:
            timeout: Seconds to wait for the first look-up; None means no limit.

        Raises:
            ServiceError: No replica is known.
        """
        if not self._names.refresh(self._replicas.n_failures, self._replicas.is_any_available):
            self._names.wait(timeout)
        self._replicas.update(self._names.found, self._connect)
        self._replicas.take_unused()  # their connections close once nobody holds them
        return self._replicas


class ReplicatedStream:
    """The calls of one walker, which moves to another replica after a failure."""

    def __init__(self, connection: ReplicatedConnection) -> None:
        self._connection = connection
        self._open: tuple[Replica[Connection], Transport] | None = None
        self._looks = SecondLooks()

    def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; after a failure the next one goes elsewhere."""
        replicas = self._connection.replicas(call.timeout)
        if self._open is None:
            with replicas.assigning(self) as replica:
                self._open = replica, replica.connection.stream()
        current, transport = self._open
        self._looks.note(call)
        began = time.monotonic()
        other = self._looks.place(replicas, current)
        if other is not None and (reply := self._visit(other, call)) is not None:
            return reply
        try:
            with replicas.noting(current):
                reply = transport.send(self._looks.own(call, time.monotonic() - began))
                replicas.note_step(current, reply)
                self._looks.note_reply(reply)
                return reply
        except ELSEWHERE:
            self.close()
            raise

    def _visit(self, other: Replica[Connection], call: Call) -> Message | None:
        """Take a step at another replica, and stay if less is waiting there.

        Returns:
            The reply; None if the step is still to be taken.
        """
        assert self._open is not None
        current, former = self._open
        replicas = self._connection.replicas(call.timeout)
        is_better, transport = False, None
        try:
            with replicas.noting(other):
                transport = other.connection.stream()
                reply = transport.send(self._looks.whole(call))
                replicas.note_step(other, reply)
            if not self._looks.accepts(reply):
                return None
            is_better = self._looks.is_better(current, other)
            return reply
        except ServiceError:
            return None
        finally:
            if is_better and transport is not None:
                self._open = other, transport
                current.walkers.discard(self)
                other.walkers.add(self)
                former.close()
            elif transport is not None:
                transport.close()

    def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            replica, transport = opened
            replica.walkers.discard(self)
            transport.close()


class AsyncReplicatedConnection:
    """The asyncio counterpart of `ReplicatedConnection`."""

    def __init__(self, urls: Sequence[Url], connect: Callable[[Url], AsyncConnection]) -> None:
        self._names = Names(urls)
        self._connect = connect
        self._replicas: Replicas[AsyncConnection] = Replicas()

    async def send(self, call: Call) -> Message:
        """Send a call to a replica and wait for the reply."""
        mark = _Mark()
        replica = (await self.replicas(call.timeout)).assign(mark)
        with self._replicas.noting(replica):
            reply = await replica.connection.send(call)
            self._replicas.note_reply(replica, reply)
            return reply

    async def receive(self, call: Call) -> AsyncGenerator[pb.Snapshot | pb.Relaxed, None]:
        """Send a call to a replica and yield the replies; closing the generator cancels it."""
        mark = _Mark()
        replica = (await self.replicas(call.timeout)).assign(mark)
        with self._replicas.noting(replica):
            async with aclosing(replica.connection.receive(call)) as replies:
                async for reply in replies:
                    self._replicas.note_reply(replica, reply)
                    yield reply

    def stream(self) -> "AsyncReplicatedStream":
        """Return a transport for the calls of one walker."""
        return AsyncReplicatedStream(self)

    async def close(self) -> None:
        """Close all connections."""
        await _close_all(self._replicas.all_and_former())

    async def replicas(self, timeout: float | None) -> Replicas[AsyncConnection]:
        """Return the replicas as the names stand for them now."""
        if not self._names.refresh(self._replicas.n_failures, self._replicas.is_any_available):
            await self._names.wait_async(timeout)
        self._replicas.update(self._names.found, self._connect)
        if self._replicas.former:
            await _close_all(self._replicas.take_unused())
        return self._replicas


class AsyncReplicatedStream:
    """The asyncio counterpart of `ReplicatedStream`."""

    def __init__(self, connection: AsyncReplicatedConnection) -> None:
        self._connection = connection
        self._open: tuple[Replica[AsyncConnection], AsyncTransport] | None = None
        self._looks = SecondLooks()

    async def send(self, call: Call) -> Message:
        """Send a message and wait for its reply; after a failure the next one goes elsewhere."""
        replicas = await self._connection.replicas(call.timeout)
        if self._open is None:
            with replicas.assigning(self) as replica:
                self._open = replica, replica.connection.stream()
        current, transport = self._open
        self._looks.note(call)
        began = time.monotonic()
        other = self._looks.place(replicas, current)
        if other is not None and (reply := await self._visit(other, call)) is not None:
            return reply
        try:
            with replicas.noting(current):
                reply = await transport.send(self._looks.own(call, time.monotonic() - began))
                replicas.note_step(current, reply)
                self._looks.note_reply(reply)
                return reply
        except ELSEWHERE:
            await self.close()
            raise

    async def _visit(self, other: Replica[AsyncConnection], call: Call) -> Message | None:
        """Take a step at another replica, and stay if less is waiting there.

        Returns:
            The reply; None if the step is still to be taken.
        """
        assert self._open is not None
        current, former = self._open
        replicas = await self._connection.replicas(call.timeout)
        is_better, transport = False, None
        try:
            with replicas.noting(other):
                transport = other.connection.stream()
                reply = await transport.send(self._looks.whole(call))
                replicas.note_step(other, reply)
            if not self._looks.accepts(reply):
                return None
            is_better = self._looks.is_better(current, other)
            return reply
        except ServiceError:
            return None
        finally:
            if is_better and transport is not None:
                self._open = other, transport
                current.walkers.discard(self)
                other.walkers.add(self)
                await former.close()
            elif transport is not None:
                await transport.close()

    async def close(self) -> None:
        """End the stream, if there is one."""
        opened, self._open = self._open, None
        if opened is not None:
            replica, transport = opened
            replica.walkers.discard(self)
            await transport.close()


async def _close_all(replicas: Sequence[Replica[AsyncConnection]]) -> None:
    for each in replicas:
        if (opened := each.opened) is not None:
            await opened.close()


class _Mark:
    """A call or a run, which counts at its replica like a walker for as long as it is open."""
