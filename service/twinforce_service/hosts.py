"""The names and addresses of this machine, and those that requests may give."""

import ipaddress

_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


def is_loopback(host: str) -> bool:
    """Return True if an address or name is one of this machine; other names are not resolved."""
    if host.lower() in _OWN_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
