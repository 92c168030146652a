"""The pools of connections over HTTP: their limits, sockets, certificates, proxy and watch."""

import socket
import ssl
from functools import cache
from typing import Any

import httpcore2
import httpx2

from twinforce._transports.access import Access
from twinforce._transports.proxies import Route
from twinforce._transports.transport import KEEP_ALIVE
from twinforce._transports.url import Url
from twinforce._transports.watch import AsyncWatchedBackend, WatchedBackend, watched

# Unanswered probes after which a connection is dead.
_N_PROBES = 4
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30.0)


def pool_to(route: Route, access: Access) -> httpx2.HTTPTransport:
    """Return a pool of connections to a service, whose replies are watched."""
    options = _options(route, access)

    def ask(watch_id: str) -> Any:
        try:
            transport = httpx2.HTTPTransport(**options)
            with httpx2.Client(transport=transport, headers=access.headers) as http:
                return _answer_in(http.get(**_question(route, watch_id)))
        except httpx2.HTTPError as error:
            raise httpcore2.ReadError(f"no reply, and no new connection: {error}") from error

    return watched(httpx2.HTTPTransport(**options), WatchedBackend(ask))


def async_pool_to(route: Route, access: Access) -> httpx2.AsyncHTTPTransport:
    """Return a pool of connections for asyncio."""
    options = _options(route, access)

    async def ask(watch_id: str) -> Any:
        try:
            transport = httpx2.AsyncHTTPTransport(**options)
            async with httpx2.AsyncClient(transport=transport, headers=access.headers) as http:
                return _answer_in(await http.get(**_question(route, watch_id)))
        except httpx2.HTTPError as error:
            raise httpcore2.ReadError(f"no reply, and no new connection: {error}") from error

    return watched(httpx2.AsyncHTTPTransport(**options), AsyncWatchedBackend(ask))


def host_header(url: Url) -> dict[str, str]:
    """Return the header that names the host to a replica at one of its addresses."""
    return {"host": httpx2.URL(str(url)).netloc.decode()} if url.address else {}


def name_for_tls(url: Url) -> dict[str, str]:
    """Return the extension of requests that compares certificates with the host at an address."""
    return {"sni_hostname": url.host} if url.address else {}


def _question(route: Route, watch_id: str) -> dict[str, Any]:
    """Return the arguments of the request that asks about another one."""
    return {
        "url": f"{route.url.location}/v1/requests/{watch_id}",
        "headers": host_header(route.url),
        "extensions": name_for_tls(route.url),
        "timeout": KEEP_ALIVE.patience,
    }


def _answer_in(reply: httpx2.Response) -> Any:
    """Return what the service says about an open request; None if it cannot be asked."""
    try:
        return reply.json() if reply.status_code == httpx2.codes.OK else None
    except ValueError:
        return None


def _options(route: Route, access: Access) -> dict[str, Any]:
    return {
        "limits": _LIMITS,
        "socket_options": _socket_options(),
        "proxy": None if route.proxy is None else route.proxy.url,
        "verify": _tls(route, access),
    }


def _tls(route: Route, access: Access) -> ssl.SSLContext:
    """Return the settings of TLS; those without files of the client take 50 ms to load."""
    own = (access.ca, access.authority, access.certificate)
    has_own = any(each is not None for each in own)
    return access.tls() if has_own and route.url.is_secure else _default_tls()


@cache
def _default_tls() -> ssl.SSLContext:
    return Access().tls()


def _socket_options() -> list[tuple[int, int, int]]:
    """Return the options that send small messages at once and notice a dead connection.

    Systems other than Linux may lack some of them.
    """
    probes = {
        "TCP_KEEPIDLE": KEEP_ALIVE.interval,
        "TCP_KEEPALIVE": KEEP_ALIVE.interval,  # the same, on macOS
        "TCP_KEEPINTVL": KEEP_ALIVE.patience / _N_PROBES,
        "TCP_KEEPCNT": _N_PROBES,
        "TCP_USER_TIMEOUT": 1000 * (KEEP_ALIVE.interval + KEEP_ALIVE.patience),  # in ms
    }
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *(
            (socket.IPPROTO_TCP, getattr(socket, name), max(round(value), 1))
            for name, value in probes.items()
            if hasattr(socket, name)
        ),
    ]
