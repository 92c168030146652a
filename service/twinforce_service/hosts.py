"""The names and addresses of this machine, and those that requests and settings may give."""

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

# Bits of an address of IPv6 that tell customers of a provider, or networks of an institute, apart.
_PREFIX = 64
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Return True if an address or name is one of this machine; other names are not resolved."""
    if host.lower() in _OWN_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_in(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a host, that of IPv4 for one in IPv6 form; None for other names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a Unix socket, for example
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(host: str) -> str:
    """Return the name of the addresses that count as one: anybody with IPv6 has 2^64 of them.

    Addresses of this machine, and those that are valid on one cable only, stand for themselves.
    """
    address = address_in(host)
    if not isinstance(address, IPv6Address):
        return host if address is None else str(address)
    if address.is_loopback or address.is_link_local:
        return str(address)
    return str(ipaddress.ip_network((int(address), _PREFIX), strict=False))


def is_url(text: str) -> bool:
    """Return True if a text is the URL of a web page."""
    return text.lower().startswith(("https://", "http://"))


def is_safe_url(text: str) -> bool:
    """Return True if what is read from a URL cannot be forged: with TLS, or from this machine."""
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    )


def trusted_hosts(names: str, host: str) -> frozenset[str] | None:
    """Return the names that the header Host may have; None means any.

    Args:
        names: Names that are given, separated by commas; if empty, those of this machine are meant
            where only this machine is listened to.
        host: Address or name that is listened on.
    """
    given = frozenset(name.strip().lower() for name in names.split(",") if name.strip())
    if given:
        return given
    own = f"[{host}]" if ":" in host else host.lower()
    return _OWN_NAMES | {own} if is_loopback(host) else None
