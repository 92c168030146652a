"""The names and addresses of this machine, and those that requests and settings may give."""

import ipaddress
from urllib.parse import urlsplit

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Return True if an address or name is one of this machine; other names are not resolved."""
    if host.lower() in _OWN_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
