"""The connections of a blocking client in one process."""

from collections import deque
from collections.abc import Callable
from threading import current_thread, main_thread
from weakref import WeakValueDictionary

from twinforce._transports.transport import Connection


class Connections:
    """The connections of a client: one that threads share, and one for the main thread.

    Signal handlers run in the main thread and may raise between any two instructions, as Ctrl-C
    does, so that the libraries below are left with a lock held or a reply unread. Therefore the
    main thread takes a connection out to use it and puts it back afterwards. One that it left
    with an exception is not seen again, and no other thread depends on it.

    Args:
        connect: Function that makes a connection.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._idle: deque[Connection] = deque(maxlen=1)
        self._shared: dict[str, Connection] = {}
        self._open: WeakValueDictionary[int, Connection] = WeakValueDictionary()

    def take(self) -> Connection:
        """Return a connection to use in this thread."""
        if current_thread() is not main_thread():
            return self.shared()
        try:
            return self._idle.pop()
        except IndexError:
            return self._new()

    def put_back(self, connection: Connection) -> None:
        """Let the next call use a connection that was taken."""
        if connection is not self._shared.get("connection"):
            self._idle.append(connection)

    def shared(self) -> Connection:
        """Return the connection that all threads may use at once."""
        if (connection := self._shared.get("connection")) is not None:
            return connection
        return self._shared.setdefault("connection", self._new())

    def close(self) -> None:
        """Close all connections."""
        for reference in self._open.valuerefs():
            if (connection := reference()) is not None:
                connection.close()

    def _new(self) -> Connection:
        connection = self._connect()
        self._open[id(connection)] = connection
        return connection
