"""The choice among several replicas: calls go to those that answer, and walkers stay with theirs.

Attempts are repeated elsewhere; here a failure only sends the next attempt to another replica.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from google.protobuf.message import Message

from twinforce._transports.replication.balance import Standing, choose
from twinforce._transports.replication.replica import Replica
from twinforce._transports.url import Url
from twinforce_proto import DeadlineExceededError, OverloadedError, UnavailableError
from twinforce_proto.codec.messages import error_from_proto
from twinforce_proto.v1 import inference_pb2 as pb

# Errors after which another replica may answer, or may answer sooner.
ELSEWHERE = (UnavailableError, OverloadedError, DeadlineExceededError)

_Connection = TypeVar("_Connection")


@dataclass(frozen=True, slots=True)
class _Members(Generic[_Connection]):
    """The replicas at some URLs, which threads replace as a whole."""

    urls: Sequence[Url]
    replicas: tuple[Replica[_Connection], ...]


class Replicas(Generic[_Connection]):
    """The replicas of a service that are known at the moment.

    It takes no lock, which a fork could leave locked; at worst, two walkers choose the same one.

    Args:
        connects: A function for each replica that makes a connection to it.
        clock: Time in s.

    Attributes:
        n_failures: Number of failures of any of them.
    """

    def __init__(
        self,
        connects: Sequence[Callable[[], _Connection]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        # Many clients start at once; nobody gains from guessing where they go.
        self._random = random.Random()  # noqa: S311
        self._members = _Members((), tuple(Replica(each) for each in connects))
        # The members by URL, and those before them that may still have walkers.
        self._by_url: dict[Url, Replica[_Connection]] = {}
        self.n_failures = 0

    @property
    def all(self) -> tuple[Replica[_Connection], ...]:
        """The replicas, without former ones."""
        return self._members.replicas

    @property
    def former(self) -> list[Replica[_Connection]]:
        """Those that are no longer among the replicas, and may still have walkers."""
        if len(self._by_url) <= len(self._members.replicas):
            return []  # as in nearly every step
        members = set(self._members.replicas)
        return [each for each in list(self._by_url.values()) if each not in members]

    def update(self, urls: Sequence[Url], connect: Callable[[Url], _Connection]) -> None:
        """Replace the replicas; those that stay, or come back while they have walkers, are kept.

        Args:
            urls: URL of each, as they were found last.
            connect: Function that makes a connection to one.
        """
        if urls is self._members.urls:
            return
        # Of two threads that meet a new URL, both use the replica of one of them.
        found = {
            each: self._by_url.setdefault(each, Replica(partial(connect, each), each))
            for each in urls
        }
        self._members = _Members(urls, tuple(found.values()))
        for url, each in found.items():
            self._by_url.setdefault(url, each)  # another thread may have removed it meanwhile

    def is_any_available(self) -> bool:
        """Return True unless all of them are left out after failures."""
        now = self._clock()
        return any(each.backoff_until <= now for each in self.all)

    def take_unused(self) -> list[Replica[_Connection]]:
        """Remove and return the former replicas that no walker uses."""
        unused = [each for each in self.former if not each.walkers]
        if unused:
            for url, each in list(self._by_url.items()):
                if each in unused:
                    self._by_url.pop(url, None)
        return unused

    def all_and_former(self) -> list[Replica[_Connection]]:
        """Return all replicas that may have connections."""
        return [*self.all, *self.former]

    def choose(self) -> Replica[_Connection]:
        """Return the replica for the next call or walker.

        It is one of those that are available. If none is, it is the one that may be tried first.
        """
        now = self._clock()
        available = [each for each in self.all if each.is_available(now)]
        if available:
            standings = [
                Standing(len(each.walkers), None if each.load is None else each.load.at(now))
                for each in available
            ]
            replica = available[choose(standings, self._random)]
        else:
            replica = min(self.all, key=lambda each: each.backoff_until)
        replica.note_choice(now)
        return replica

    def choose_other(self, current: Replica[_Connection]) -> Replica[_Connection] | None:
        """Return another replica that is available, at random; None if there is none."""
        now = self._clock()
        others = [each for each in self.all if each is not current and each.is_available(now)]
        if not others:
            return None
        other = self._random.choice(others)
        other.note_choice(now)
        return other

    def assign(self, walker: object) -> Replica[_Connection]:
        """Return the replica for a new walker, which counts there from now on."""
        replica = self.choose()
        replica.walkers.add(walker)
        return replica

    @contextmanager
    def assigning(self, walker: object) -> Iterator[Replica[_Connection]]:
        """Yield the replica for a new walker, which counts there unless its stream fails to open.

        Raises:
            ServiceError: As `noting` does.
        """
        replica = self.assign(walker)
        try:
            with self._noting_failure(replica):
                yield replica
        except BaseException:
            replica.walkers.discard(walker)
            raise

    def note_reply(self, replica: Replica[_Connection], reply: Message) -> None:
        """Note a reply of a replica."""
        replica.note_reply(reply, self._clock())

    def note_step(self, replica: Replica[_Connection], reply: Message) -> None:
        """Note a reply to a step of a stream.

        Raises:
            ServiceError: The reply holds an error after which another replica may answer.
        """
        if isinstance(reply, pb.StreamReply) and reply.HasField("error"):
            error = error_from_proto(reply.error)
            if isinstance(error, ELSEWHERE):
                raise error
        self.note_reply(replica, reply)

    @contextmanager
    def noting(self, replica: Replica[_Connection]) -> Iterator[None]:
        """Note how a call of a replica ends.

        Raises:
            UnavailableError: The replica does not answer, or not yet; also in place of a
                `MisdirectedError`, as long as another address may do.
            OverloadedError: Its queue is full. Neither asks for a wait if another one may answer.
            DeadlineExceededError: It has not answered in time.
        """
        with self._noting_failure(replica):
            yield
        replica.note_reply()

    @contextmanager
    def _noting_failure(self, replica: Replica[_Connection]) -> Iterator[None]:
        try:
            yield
        except ELSEWHERE as error:
            now = self._clock()
            replica.note_failure(error, now)
            self.n_failures += 1
            if error.retry_after is not None and any(each.is_available(now) for each in self.all):
                error.retry_after = 0.0
            if replica.is_misdirected and not all(each.is_misdirected for each in self.all):
                raise UnavailableError(str(error)) from error
            raise
