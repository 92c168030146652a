"""Listening sockets, with errors that say which address is taken."""

import contextlib
import socket

# Number of connections that may wait to be accepted.
_BACKLOG = 1024


def address_of(host: str, port: int) -> str:
    """Return host:port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, purpose: str) -> socket.socket:
    """Return a listening socket.

    The socket names its protocol, as asyncio sets TCP_NODELAY only on such sockets. Without it,
    every reply that is sent in two parts is delayed by 40 ms.

    Args:
        host: Name or address of the interface.
        port: Port number; 0 picks a free port.
        purpose: Name of the transport for error messages.

    Raises:
        OSError: The address cannot be listened on.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            address = address_of(host, port)
            raise OSError(f"cannot listen on {address} for {purpose}: {reason}") from error
        stack.pop_all()
        return listener
