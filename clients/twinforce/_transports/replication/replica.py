"""One of several replicas of a service: its connection, its walkers, and its state."""

import _thread
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from google.protobuf.message import Message

from twinforce._transports.proxies import route_to
from twinforce._transports.replication.balance import Load
from twinforce._transports.transport import KEEP_ALIVE, MisdirectedError
from twinforce._transports.url import Url
from twinforce_proto import ServiceError

# Time in s for which a replica that failed is left out while others answer; it doubles, and is at
# least the time that the replica asks for.
_SHORTEST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.25, 5.0

_Connection = TypeVar("_Connection")


class Replica(Generic[_Connection]):
    """One of the replicas, and its state.

    Args:
        connect: Function that makes a connection to it.
        url: Where it is; None if its port is not tried.

    Attributes:
        walkers: Walkers that use it, and open calls.
        backoff_until: Time until which others are preferred.
        is_misdirected: True if its address was at fault in the last attempt.
        load: Load that it has reported; None before that.
    """

    def __init__(self, connect: Callable[[], _Connection], url: Url | None = None) -> None:
        self._connect = connect
        self._url = url
        self._opened: dict[str, _Connection] = {}
        self.walkers: WeakSet[object] = WeakSet()
        self.backoff_until = 0.0
        self.is_misdirected = False
        self.load: Load | None = None
        self._n_failures = 0
        self._is_trying = self._has_port_opened = False

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

    def is_available(self, now: float) -> bool:
        """Return True if it may be chosen while others are available, too."""
        return self.backoff_until <= now and (not self._n_failures or self._is_reachable())

    def note_choice(self, now: float) -> None:
        """Note that a walker or a call was sent to it.

        After a failure that is a trial, during which no others are sent.
        """
        if self.load is not None:
            self.load.n_placed += 1
        if self._n_failures:
            self.backoff_until = max(self.backoff_until, now + self._backoff)
            self._has_port_opened = False

    def note_reply(self, reply: Message | None = None, now: float = 0.0) -> None:
        """Note that it answers, and the load that the reply tells, if it does."""
        self._n_failures, self.backoff_until, self.is_misdirected = 0, 0.0, False
        timings: Any = getattr(reply, "timings", None)
        if timings is not None and timings.HasField("queue_n_atoms"):
            n_atoms = timings.queue_n_atoms + timings.batch_n_atoms
            self.load = Load(n_atoms, timings.batch_n_atoms / max(timings.batch_n_systems, 1), now)

    def note_failure(self, error: ServiceError, now: float) -> None:
        """Note that it did not answer, or is overloaded."""
        backoff = self._backoff
        self._n_failures += 1
        self.backoff_until = now + max(backoff, error.retry_after or 0.0)
        self.is_misdirected = isinstance(error, MisdirectedError)
        self._has_port_opened = False

    @property
    def _backoff(self) -> float:
        return min(_SHORTEST_BACKOFF_S * 2.0 ** min(self._n_failures, 10), _LONGEST_BACKOFF_S)

    def _is_reachable(self) -> bool:
        """Return True if its port opens; a thread tries it, since a dead host never answers."""
        if self._url is None or self._has_port_opened:
            return True
        if not self._is_trying:
            self._is_trying = True
            try:
                _thread.start_new_thread(self._try_port, (self._url,))
            except RuntimeError:  # the system has no more threads
                self._is_trying = False
        return False

    def _try_port(self, url: Url) -> None:
        try:
            if route_to(url).proxy is None:
                where = url.address or url.host, url.port
                socket.create_connection(where, timeout=KEEP_ALIVE.connect_to(url)).close()
            self._has_port_opened = True
        except (OSError, ValueError):
            pass
        finally:
            self._is_trying = False
