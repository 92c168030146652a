"""The way to a service: directly or through a proxy, the same for every transport.

The environment names it, as for most programs: `http_proxy` for http:// and grpc://, `https_proxy`
for https:// and grpcs://, `all_proxy` for both, and `no_proxy` for hosts that are reached directly.
"""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from twinforce._transports.url import Url

_EXPECTED = "expected the url of an HTTP proxy, such as http://proxy:3128"


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """The address of a proxy; its text shows no credentials."""

    host: str
    port: int
    user: str = field(repr=False, default="")
    password: str = field(repr=False, default="")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Address with credentials, which must not be shown."""
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
        return f"http://{credentials if self.user or self.password else ''}{self}"


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a service, as errors name it."""

    url: Url
    proxy: HttpProxy | None

    def __str__(self) -> str:
        at = f" at {self.url.address}" if self.url.address else ""
        return f"{self.url}{at}" if self.proxy is None else f"{self.url} through proxy {self.proxy}"


def route_to(url: Url) -> Route:
    """Return the way to a service, through the proxy that the environment names, if any.

    Raises:
        ValueError: The environment names something that is not an HTTP proxy.
    """
    settings = getproxies()
    name = "https" if url.is_secure else "http"
    name = name if settings.get(name) else "all"
    address = settings.get(name)
    if not address or url.is_loopback or _is_direct(url, settings.get("no", "")):
        return Route(url, None)
    return Route(url, _parse(address.strip(), f"{name}_proxy"))


def _parse(address: str, name: str) -> HttpProxy:
    proxy = _proxy(address if "://" in address else f"http://{address}")
    if proxy is None:
        scheme, separator, rest = address.partition("://")
        if not (separator and scheme.isalnum()):
            scheme, separator, rest = "", "", address
        shown = f"{scheme}{separator}{rest.rpartition('@')[2]}"
        raise ValueError(f"{name}: {_EXPECTED}, got {shown}")
    return proxy


def _proxy(address: str) -> HttpProxy | None:
    """Return the proxy at an address; None if the address is not that of an HTTP proxy."""
    try:
        parts = urlsplit(address)
        port = 80 if parts.port is None else parts.port
    except ValueError:
        return None
    credentials, at, _ = parts.netloc.rpartition("@")
    # A reserved character in a password ends the host too early.
    is_whole = bool(at) == ("@" in address)
    if parts.scheme != "http" or not parts.hostname or not port or not is_whole:
        return None
    user, _, password = credentials.partition(":")
    return HttpProxy(parts.hostname, port, unquote(user), unquote(password))


def _is_direct(url: Url, exceptions: str) -> bool:
    """Return True if `no_proxy`, or the settings of the system, say that there is no proxy."""
    if any(_matches(entry, url) for entry in exceptions.lower().replace(",", " ").split()):
        return True
    return not exceptions and bool(proxy_bypass(url.host))


def _matches(entry: str, url: Url) -> bool:
    """Return True if an entry of `no_proxy` stands for the host of a url.

    An entry is `*`, a host, a domain with or without a leading dot, an address or a range of
    addresses; a port may follow.
    """
    host, port = _split(entry)
    if port is not None and port != url.port:
        return False
    if host == "*":
        return True
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        domain = host.removeprefix("*").strip(".")
        name = url.host.lower().rstrip(".")
        return bool(domain) and (name == domain or name.endswith(f".{domain}"))
    try:
        return address in ipaddress.ip_network(host, strict=False)
    except ValueError:
        return False


def _split(entry: str) -> tuple[str, int | None]:
    """Return the host of an entry and its port, if it has one."""
    if entry.startswith("["):
        host, _, port = entry[1:].partition("]")
        port = port.removeprefix(":")
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        host, port = entry, ""
    return host, int(port) if port.isdecimal() else None
