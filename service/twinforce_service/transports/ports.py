"""Listening sockets, with errors that say which address is taken, and the limit on sockets."""

import contextlib
import logging
import resource
import socket

logger = logging.getLogger(__name__)

# Number of connections that may wait to be accepted; the system may allow fewer.
BACKLOG = 4096
# Number of files that the service opens besides connections: libraries, models, pipes.
_OTHER_FILES = 256


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
            listener.listen(BACKLOG)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            address = address_of(host, port)
            raise OSError(f"cannot listen on {address} for {purpose}: {reason}") from error
        stack.pop_all()
        return listener


def allow_connections(n_needed: int) -> None:
    """Raise the limit on open files to the highest that is allowed, and warn if it is too low.

    Args:
        n_needed: Number of connections that may be open at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = n_needed + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        text = "at most %d files may be open, but %d connections need %d: raise `ulimit -n`"
        logger.warning(text, allowed, n_needed, wanted)
