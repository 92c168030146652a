"""The address of a service."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

_EXPECTED = "expected a url such as grpc://host:8001 or http://host:8000"
_MOST_REPLICAS = 1000
DEFAULT_URL = "grpc://127.0.0.1:8001"
URL_VARIABLE = "TWINFORCE_URL"
# Names that systems give this machine in /etc/hosts; those that end with .localhost are, too.
_LOOPBACK = {"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}
_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url:
    """The parsed address of a service."""

    transport: Literal["grpc", "rest"]
    is_secure: bool
    host: str
    port: int
    path: str

    def __str__(self) -> str:
        name = "grpc" if self.transport == "grpc" else "http"
        return f"{name}{'s' if self.is_secure else ''}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if the host is this machine, which no proxy can reach."""
        name = self.host.rstrip(".")
        if name in _LOOPBACK or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_loopback or address.is_unspecified


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a service: a URL for each replica, which differ in host and port only.

    Attributes:
        urls: The URLs.
    """

    urls: tuple[Url, ...]

    def __str__(self) -> str:
        first, *others = self.urls
        return ",".join([str(first).removesuffix(first.path), *(o.netloc for o in others)]) + (
            first.path
        )

    @property
    def transport(self) -> Literal["grpc", "rest"]:
        """The transport of all replicas."""
        return self.urls[0].transport

    @property
    def is_secure(self) -> bool:
        """True if the replicas use TLS."""
        return self.urls[0].is_secure

    @property
    def is_loopback(self) -> bool:
        """True if all replicas are on this machine."""
        return all(each.is_loopback for each in self.urls)


def default_url() -> str:
    """Return the address in the environment variable TWINFORCE_URL, or that of this machine."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


def parse_address(text: str) -> Address:
    """Parse the address of a service, such as grpc://a:8001,b:8001 for two replicas.

    Raises:
        ValueError: The text is not the address of a service.
    """
    scheme, separator, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    hosts, slash, path = rest.partition("/")
    if "," not in hosts:
        return Address((parse_url(text),))
    names = hosts.split(",")
    if not all(names) or len(names) > _MOST_REPLICAS:
        problem = "an empty host" if len(names) <= _MOST_REPLICAS else f"{len(names)} hosts"
        raise ValueError(f"{_EXPECTED}, or with several hosts, a:8001,b:8001, got {problem}")
    urls = [parse_url(f"{scheme}{separator}{name}{slash}{path}") for name in names]
    return Address(tuple(dict.fromkeys(urls)))


def parse_url(url: str) -> Url:
    """Parse the address of one replica of a service.

    Raises:
        ValueError: The text is not the address of a service.
    """
    if not isinstance(url, str):
        raise ValueError(f"url: {_EXPECTED}, got {url!r}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{_EXPECTED}, got {url!r}: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{_EXPECTED}, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{_EXPECTED}, got one with credentials, which the service does not ask for"
        )
    if port == 0:
        raise ValueError(f"{_EXPECTED}, got {url!r}: no service can have port 0")
    path = parts.path.rstrip("/")
    is_grpc = parts.scheme.startswith("grpc")
    if parts.query or parts.fragment or (is_grpc and path):
        raise ValueError(f"{_EXPECTED}, got {url!r}")
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    return Url(
        "grpc" if is_grpc else "rest", parts.scheme.endswith("s"), parts.hostname, port, path
    )
