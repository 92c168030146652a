"""The check of the key or token of a request, the same for REST and gRPC."""

from functools import partial
from typing import Protocol

from twinforce_proto import UnauthenticatedError
from twinforce_service.callers.entry import AccessEntry
from twinforce_service.callers.key_ring import EXPECTED
from twinforce_service.context import caller, check_again, permission

_SCHEME = "bearer"


class Ring(Protocol):
    """The valid keys, or tokens."""

    def find(self, text: str, *, may_be_expired: bool = False) -> AccessEntry | None:
        """Return what a key allows that was verified before."""

    def hold(self, text: str) -> object:
        """Return an object; while it exists, a key is found that was verified before."""

    async def verify(self, text: str, address: str) -> AccessEntry:
        """Verify a key and return what it allows."""


class KeyCheck:
    """The check of keys, which sets the caller of the current request and what it may do.

    Args:
        keys: The valid keys; None if there are only tokens.
        tokens: The valid tokens; None if there are only keys.
    """

    def __init__(self, keys: Ring | None, tokens: Ring | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    def passes(self, authorization: str | None) -> bool:
        """Return True if the key was verified before.

        Args:
            authorization: Value of the header, or of the metadata.

        Raises:
            UnauthenticatedError: The key has expired, or the value holds none.
        """
        if (text := _key_in(authorization)) is None:
            return False
        ring = self._ring_of(text)
        if (entry := ring.find(text)) is None:
            return False
        self._enter(entry, ring, text)
        return True

    async def verify(self, authorization: str | None, address: str) -> None:
        """Verify the key of a request.

        Args:
            authorization: Value of the header, or of the metadata; None if there is none.
            address: Address of the caller.

        Raises:
            UnauthenticatedError: There is no valid key.
            OverloadedError: The address has failed too often.
        """
        if (text := _key_in(authorization)) is None:
            raise UnauthenticatedError(f"{EXPECTED}, got none")
        ring = self._ring_of(text)
        self._enter(await ring.verify(text, address), ring, text)

    def _ring_of(self, text: str) -> Ring:
        """Return the ring that a text is for: tokens have two dots, and keys none."""
        if self._tokens is not None and (self._keys is None or text.count(".") == 2):
            return self._tokens
        assert self._keys is not None
        return self._keys

    def _enter(self, entry: AccessEntry, ring: Ring, text: str) -> None:
        caller.set(entry.caller)
        permission.set(entry.permission)
        check_again.set(partial(_check_again, ring, text, ring.hold(text)))


def _check_again(ring: Ring, text: str, held: object, *, may_be_expired: bool = False) -> None:
    """Check a key again, which is held between the checks."""
    del held
    entry = ring.find(text, may_be_expired=may_be_expired)
    if entry is None:
        raise UnauthenticatedError("the key was revoked")
    caller.set(entry.caller)
    permission.set(entry.permission)


def _key_in(authorization: str | None) -> str | None:
    """Return the key in the value of a header.

    Raises:
        UnauthenticatedError: The value is of another kind; the message does not repeat it.
    """
    if authorization is None:
        return None
    scheme, _, text = authorization.strip().partition(" ")
    if scheme.lower() != _SCHEME or not text.strip():
        raise UnauthenticatedError("authorization: expected 'Bearer KEY', got another scheme")
    return text.strip()
