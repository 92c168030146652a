"""The address of a socket, and sockets that do not wait before they send."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Folder and prefix that i-PI and ASE give to the names of sockets of this machine.
_PREFIX = "/tmp/ipi_"  # noqa: S108


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a socket: a host and a port, or a file of this machine.

    Attributes:
        host: Host, or "" for a file.
        port: Port, or 0 for a file.
        path: File, or None.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse "host:port" or "unix:name"; a name without a slash means /tmp/ipi_name.

        Raises:
            ValueError: It is neither.
        """
        host, _, rest = text.rpartition(":")
        if host == "unix" and rest:
            return cls(path=rest if "/" in rest else _PREFIX + rest)
        if host and rest.isdecimal() and 0 < int(rest) < 2**16:
            return cls(host.strip("[]"), int(rest))
        raise ValueError(f"address: expected HOST:PORT or unix:NAME, got {text!r}")

    def connect(self) -> socket.socket:
        """Return a socket that is connected to this address.

        Raises:
            OSError: Nobody listens there.
        """
        if self.path is None:
            return without_delay(socket.create_connection((self.host, self.port)))
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.connect(self.path)
        except OSError:
            connected.close()
            raise
        return connected

    def listen(self) -> socket.socket:
        """Return a socket that listens at this address.

        A file that a program left behind, which listens no more, is replaced.

        Raises:
            OSError: The address is in use.
        """
        if self.path is None:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        if self._is_left_behind():
            self.remove()
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(self.path)
            listening.listen()
        except OSError as error:
            listening.close()
            raise OSError(error.errno, error.strerror, self.path) from error
        return listening

    def remove(self) -> None:
        """Remove the file of a socket that listened."""
        if self.path is not None:
            Path(self.path).unlink(missing_ok=True)

    def _is_left_behind(self) -> bool:
        """Return True if the file is a socket at which no program listens any more."""
        assert self.path is not None
        if not Path(self.path).is_socket():
            return False
        try:
            self.connect().close()
        except OSError as error:
            return error.errno == errno.ECONNREFUSED
        return False


def without_delay(connected: socket.socket) -> socket.socket:
    """Send small messages at once, instead of waiting up to 40 ms for more to send."""
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected
