"""The keys that are valid now, and their verification."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from twinforce_proto import OverloadedError, UnauthenticatedError
from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.key_file import Key, KeyFileEntry, KeyFileError, TokenRule, read_keys
from twinforce_service.callers.key_text import DUMMY, id_of
from twinforce_service.rotation import WatchedFiles

logger = logging.getLogger(__name__)

# Hashes are computed one after another; so many callers may wait for one.
_MOST_WAITING = 64
_BUSY_S = 1.0
EXPECTED = "expected the header 'Authorization: Bearer KEY' with a key of this service"
"""The beginning of errors about keys."""


class KeyRing:
    """The keys in a file, which is read again when it changes.

    The slow hash of a key is computed once. Afterwards the key is found by a fast hash with a
    random salt of this process.

    Args:
        path: Path of the file.
        attempts: Failed attempts, by address.
        clock: Returns the time.

    Raises:
        KeyFileError: The file is not a file of keys.
    """

    def __init__(
        self,
        path: Path,
        attempts: FailedAttempts | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._path = path
        self._files = WatchedFiles([path])
        self._attempts = attempts or FailedAttempts()
        self._clock = clock
        self.rules: tuple[TokenRule, ...] = ()
        """The entries for tokens; another object after each change."""
        self._salt = secrets.token_bytes(32)
        self._verified: dict[bytes, Key] = {}
        self._in_progress: dict[bytes, asyncio.Future[bool]] = {}
        self._hashing = ThreadPoolExecutor(1, "twinforce-keys")
        self._take(read_keys(path))

    def reload_if_changed(self) -> None:
        """Read the file again if it has changed; a bad file is logged, and the old keys stay."""
        if not self._files.have_changed():
            return
        try:
            self._take(read_keys(self._path))
        except KeyFileError as error:
            self._files.note_failure()
            logger.error("the keys stay as they were: %s", error)
        else:
            logger.info("the keys were read again", extra={"n_keys": len(self._by_id)})

    def find(self, text: str, *, may_be_expired: bool = False) -> Key | None:
        """Return the key with this text if it was verified before; that takes microseconds.

        Args:
            text: Text of the key.
            may_be_expired: True to accept a key that was valid once.

        Raises:
            UnauthenticatedError: The key has expired.
        """
        key = self._verified.get(self._fast_hash(text))
        if may_be_expired or key is None or key.expires is None:
            return key
        if key.expires <= self._clock():
            raise UnauthenticatedError(f"the key {key.name!r} expired at {key.expires.isoformat()}")
        return key

    def hold(self, text: str) -> object:
        """Return None: keys that were verified are found for as long as they are in the file."""

    async def verify(self, text: str, address: str) -> Key:
        """Return the key with this text; a wrong one costs as much time as an unknown one.

        Args:
            text: Text of the key.
            address: Address of the caller, which may fail a few times a minute only.

        Raises:
            UnauthenticatedError: There is no such key, or it has expired.
            OverloadedError: The address has failed too often, or too many keys are being verified.
        """
        if (known := self.find(text)) is not None:
            return known
        if (wait := self._attempts.wait(address)) > 0:
            raise OverloadedError("too many wrong keys came from this address", retry_after=wait)
        key_id = id_of(text)
        is_right = key_id is not None and await self._is_right(text, key_id)
        if is_right and (key := self.find(text)) is not None:
            return key
        self._attempts.note(address)
        extra = {"address": address, "key_id": key_id or "none"}
        logger.warning("a request with a wrong key was refused", extra=extra)
        raise UnauthenticatedError(f"{EXPECTED}, got one that is unknown or revoked")

    async def _is_right(self, text: str, key_id: str) -> bool:
        """Verify a key by its slow hash and keep it, once for all callers that wait for it."""
        digest = self._fast_hash(text)
        if (pending := self._in_progress.get(digest)) is None:
            if len(self._in_progress) >= _MOST_WAITING:
                raise OverloadedError("too many keys are being verified", retry_after=_BUSY_S)
            pending = asyncio.ensure_future(self._compare(text, key_id, digest))
            self._in_progress[digest] = pending
            pending.add_done_callback(lambda _: self._in_progress.pop(digest))
        return await asyncio.shield(pending)  # others may wait for it when one has gone

    async def _compare(self, text: str, key_id: str, digest: bytes) -> bool:
        key = self._by_id.get(key_id)
        stored = DUMMY if key is None else key.hash
        loop = asyncio.get_running_loop()
        try:
            is_right = await loop.run_in_executor(self._hashing, stored.matches, text)
        except (RuntimeError, MemoryError) as error:  # the system has no more threads or memory
            logger.error("a key cannot be verified: %s", error)
            text = "the key cannot be verified now; try again"
            raise OverloadedError(text, retry_after=_BUSY_S) from error
        # The file may have changed meanwhile.
        current = self._by_id.get(key_id)
        if key is None or current is None or current.hash != key.hash or not is_right:
            return False
        self._verified[digest] = current
        return True

    def _take(self, entries: dict[str, KeyFileEntry]) -> None:
        """Use these entries; keys that were verified and have the same hash stay verified."""
        self.rules = tuple(each for each in entries.values() if isinstance(each, TokenRule))
        self._by_id = {each.id: each for each in entries.values() if isinstance(each, Key)}
        verified = {}
        for digest, old in self._verified.items():
            new = self._by_id.get(old.id)
            if new is not None and new.hash == old.hash:
                verified[digest] = new
        self._verified = verified

    def _fast_hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._salt, digest_size=32).digest()
