"""Ports to listen on, and what to say when somebody else does."""

import contextlib
import socket

# Connections that wait to be accepted.
_BACKLOG = 1024


def address_of(host: str, port: int) -> str:
    """Return host:port as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, purpose: str) -> socket.socket:
    """Return a socket that listens.

    Its protocol is given, as asyncio sets TCP_NODELAY only where it is: without, every reply in
    two parts waits 40 ms.

    Raises:
        OSError: When it cannot; says for which purpose it should.
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
