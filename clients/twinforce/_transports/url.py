"""The address of a service."""

import ipaddress
import os
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

_EXPECTED = "expected a url such as grpc://host:8001 or http://host:8000"
# The end of schemes whose hosts stand for all of their addresses; and such a scheme of gRPC itself.
_DNS, _DNS_OF_GRPC = "+dns", "dns"
_MOST_REPLICAS = 1000
DEFAULT_URL = "grpc://127.0.0.1:8001"
URL_VARIABLE = "TWINFORCE_URL"
# Names that systems give this machine in /etc/hosts; those that end with .localhost are, too.
_LOOPBACK = {"localhost", "localhost.localdomain", "localhost6", "ip6-localhost", "ip6-loopback"}
_DEFAULT_PORTS = {"grpc": 8001, "grpcs": 443, "http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Url:
    """The parsed address of a service.

    Attributes:
        transport: Transport that it is for.
        is_secure: True if it is for TLS.
        host: Name or address, which certificates are compared with.
        port: Port.
        path: Path that a proxy adds, without a slash at its end.
        is_dns: True if the host stands for all of its addresses, each of which is a replica.
        address: Address to connect to; empty if that of the host is looked up for each connection.
        is_replica: True if there may be other replicas.
    """

    transport: Literal["grpc", "rest"]
    is_secure: bool
    host: str
    port: int
    path: str
    is_dns: bool = False
    address: str = ""
    is_replica: bool = False

    def __str__(self) -> str:
        return f"{self._scheme}{_DNS if self.is_dns else ''}://{self.netloc}{self.path}"

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return _netloc(self.host, self.port)

    @property
    def target(self) -> str:
        """Host and port, as in a URL, to connect to."""
        return _netloc(self.address or self.host, self.port)

    @property
    def location(self) -> str:
        """The URL to connect to."""
        return f"{self._scheme}://{self.target}{self.path}"

    def at(self, address: str) -> "Url":
        """Return the URL of the replica at one of the addresses of the host."""
        return replace(self, is_dns=False, address=address, is_replica=True)

    @property
    def _scheme(self) -> str:
        return f"{'grpc' if self.transport == 'grpc' else 'http'}{'s' if self.is_secure else ''}"

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

    @property
    def is_one(self) -> bool:
        """True if there is one replica, or a proxy that makes several look like one."""
        return len(self.urls) == 1 and not self.urls[0].is_dns


def default_url() -> str:
    """Return the address in the environment variable TWINFORCE_URL, or that of this machine."""
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


def parse_address(text: str) -> Address:
    """Parse the address of a service, such as grpc://a:8001,b:8001 for two replicas.

    The hosts of grpc+dns://name:8001, for which gRPC writes dns:///name:8001, and of http+dns://
    stand for all of their addresses.

    Raises:
        ValueError: The text is not the address of a service.
    """
    text = _without_dns_of_grpc(text)
    scheme, separator, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    hosts, slash, path = rest.partition("/")
    if "," not in hosts:
        return Address((parse_url(text),))
    names = hosts.split(",")
    if not all(names) or len(names) > _MOST_REPLICAS:
        problem = "an empty host" if len(names) <= _MOST_REPLICAS else f"{len(names)} hosts"
        raise ValueError(f"{_EXPECTED}, or with several hosts, a:8001,b:8001, got {problem}")
    urls = [parse_url(f"{scheme}{separator}{name}{slash}{path}") for name in names]
    return Address(tuple(replace(each, is_replica=True) for each in dict.fromkeys(urls)))


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
    scheme = parts.scheme.removesuffix(_DNS)
    if scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError(f"{_EXPECTED}, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            f"{_EXPECTED}, got one with credentials, which the service does not ask for"
        )
    if port == 0:
        raise ValueError(f"{_EXPECTED}, got {url!r}: no service can have port 0")
    path = parts.path.rstrip("/")
    is_grpc = scheme.startswith("grpc")
    if parts.query or parts.fragment or (is_grpc and path):
        raise ValueError(f"{_EXPECTED}, got {url!r}")
    return Url(
        "grpc" if is_grpc else "rest",
        scheme.endswith("s"),
        parts.hostname,
        _DEFAULT_PORTS[scheme] if port is None else port,
        path,
        is_dns=scheme != parts.scheme,
    )


def _without_dns_of_grpc(text: str) -> str:
    """Return a text with our scheme in place of that of gRPC, if it has that.

    Raises:
        ValueError: It names a server of DNS, too.
    """
    scheme, separator, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    if not separator or scheme.lower() != _DNS_OF_GRPC:
        return text
    if not rest.startswith("/"):
        raise ValueError(
            f"{_EXPECTED}, or one with three slashes such as dns:///host:8001, got {text!r}"
        )
    return f"grpc{_DNS}://{rest[1:]}"


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
