"""Listening sockets, with errors that say which address is taken, and the limit on sockets."""

import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Generator, Sequence
from typing import Any

logger = logging.getLogger(__name__)

# Number of connections that may wait to be accepted; the system may allow fewer.
BACKLOG = 4096
# Number of files that the service opens besides connections: libraries, models, pipes.
_OTHER_FILES = 256
# Attempts to find a port that is free on every address of a host.
_N_ATTEMPTS = 20
# They are compared with the host of the settings.
_ALL_IPV4, _ALL_IPV6 = "0.0.0.0", "::"  # noqa: S104


def address_of(host: str, port: int) -> str:
    """Return host:port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, purpose: str) -> list[socket.socket]:
    """Return a listening socket for each address of a host, all on one port.

    0.0.0.0 means all IPv4 addresses, :: all addresses of both families. The sockets name their
    protocol, as asyncio sets TCP_NODELAY only on such sockets. Without it, every reply that is sent
    in two parts is delayed by 40 ms.

    Args:
        host: Name or address of the interface.
        port: Port number; 0 picks a free port.
        purpose: Name of the transport for error messages.

    Raises:
        OSError: The address cannot be listened on.
    """
    try:
        return _listen_on_all(host, port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        host_flag = "--metrics-host" if purpose == "metrics" else "--host"
        settings = f"see {host_flag} and --{purpose.lower()}-port"
        text = f"cannot listen on {address_of(host, port)} for {purpose}: {reason}; {settings}"
        raise OSError(text) from error


@contextlib.contextmanager
def no_ipv6(host: str, port: int) -> Generator[None, None, None]:
    """Keep others from listening on an IPv6 port while the context is open, if the host is 0.0.0.0.

    gRPC takes 0.0.0.0 for all addresses of both families. If the IPv6 port is taken, by a socket
    that does not listen, it is left with those that 0.0.0.0 stands for.
    """
    with contextlib.ExitStack() as stack:
        if host == _ALL_IPV4:
            with contextlib.suppress(OSError):  # there is no IPv6
                placeholder = stack.enter_context(socket.socket(socket.AF_INET6))
                placeholder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                placeholder.bind((_ALL_IPV6, port))
        yield


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


def _listen_on_all(host: str, port: int) -> list[socket.socket]:
    """Return the sockets; if a free port is taken on another address, try again."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = list(dict.fromkeys((family, place) for family, *_, place in found))
    for _ in range(_N_ATTEMPTS - 1):
        try:
            return _listen_on(places)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _listen_on(places)


def _listen_on(places: Sequence[tuple[int, Any]]) -> list[socket.socket]:
    """Return sockets on one port; addresses that this machine lacks are left out if others work."""
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        failure: OSError | None = None
        for family, (address, port, *others) in places:
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(stack.enter_context(_listener(family, (address, chosen, *others))))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                failure = error
        if failure is not None and not sockets:
            raise failure
        stack.pop_all()
        return sockets


def _listener(family: int, place: Any) -> socket.socket:
    with contextlib.ExitStack() as stack:
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener = stack.enter_context(opened)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # so that :: means both families on every system
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(place)
        listener.listen(BACKLOG)
        stack.pop_all()
    return listener
