"""The check of the key of a request, the same for REST and gRPC."""

from functools import partial

from twinforce_proto import UnauthenticatedError
from twinforce_service.callers.key_file import Key
from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.context import caller, check_again, permission

_SCHEME = "bearer"


class KeyCheck:
    """The check of keys, which sets the caller of the current request and what it may do.

    Args:
        keys: The valid keys.
    """

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    def passes(self, authorization: str | None) -> bool:
        """Return True if the key was verified before.

        Args:
            authorization: Value of the header, or of the metadata.

        Raises:
            UnauthenticatedError: The key has expired, or the value holds none.
        """
        text = _key_in(authorization)
        key = None if text is None else self._keys.find(text)
        if text is None or key is None:
            return False
        self._enter(key, text)
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
        text = _key_in(authorization)
        key = await self._keys.verify(text, address)
        assert text is not None
        self._enter(key, text)

    def _enter(self, key: Key, text: str) -> None:
        caller.set(key.caller)
        permission.set(key.permission)
        check_again.set(partial(self._check_again, text))

    def _check_again(self, text: str) -> None:
        key = self._keys.find(text)
        if key is None:
            raise UnauthenticatedError("the key was revoked")
        caller.set(key.caller)
        permission.set(key.permission)


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
