"""The keys of an issuer as they are now, read again by a thread when that is due."""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Protocol

from twinforce_proto import OverloadedError, UnavailableError
from twinforce_service.callers.tokens.key_source import KeySource, KeySourceError
from twinforce_service.callers.tokens.signing_keys import SigningKey, parse_keys
from twinforce_service.rotation import WatchedFiles

logger = logging.getLogger(__name__)

# Seconds after which the keys are read again, also after a failure, and for an unknown key.
_FRESH_S, _RETRY_S, _SHORTEST_S = 600.0, 30.0, 5.0
# Seconds for which the keys are used while they cannot be read again.
_KEPT_S = 86_400.0
# Seconds after which a reading that has not ended is replaced by another one, and the number of
# readings that may not have ended.
_LONGEST_READING_S, _MOST_READINGS = 30.0, 8
# Requests that may wait for the keys, and for how many seconds.
_MOST_WAITING, _LONGEST_WAIT_S = 64, 15.0
# Shortest time after which to come back, in s.
_SHORTEST_WAIT_S = 0.5

_Found = tuple[SigningKey, ...] | Exception


class StartThread(Protocol):
    """Starts a function in a thread."""

    def __call__(self, work: Callable[[], None]) -> None:
        """Start it and return at once."""


def _start_thread(work: Callable[[], None]) -> None:
    Thread(target=work, name="twinforce-issuer", daemon=True).start()


class KeySet:
    """The keys of an issuer, used in one event loop, which never waits for the issuer.

    Args:
        source: Where the keys are read.
        clock: Returns the time, in s.
        start_thread: Starts the thread that reads them.
    """

    def __init__(
        self,
        source: KeySource,
        clock: Callable[[], float] = time.monotonic,
        start_thread: StartThread = _start_thread,
    ) -> None:
        self._source = source
        self._clock = clock
        self._start_thread = start_thread
        self._files = WatchedFiles(source.files)
        self._keys: tuple[SigningKey, ...] = ()
        self._read_at = self._tried_at = -math.inf
        self._reason: str | None = "they were not read yet"
        # The last reading, and those that have not ended: they block, but for the last one.
        self._reading: asyncio.Future[None] | None = None
        self._unfinished: set[asyncio.Future[None]] = set()
        self._n_waiting = 0

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """The keys, another object after each change; empty if none are known, or they are old."""
        if self._keys and self._clock() - self._read_at > _KEPT_S:
            logger.error("the keys of %s are too old to be used", self._source.issuer)
            self._keys = ()
        return self._keys

    def refresh_if_due(self) -> None:
        """Begin to read the keys if they are old, could not be read, or their file has changed."""
        if self._is_reading:
            return
        age = self._clock() - self._tried_at
        if self._files.have_changed() or age > (_FRESH_S if self._reason is None else _RETRY_S):
            self._begin()

    async def find(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        """Return the key with an id, or the only one for an algorithm; None if there is none.

        For an unknown key the keys are read again, every few seconds at most.

        Raises:
            UnavailableError: There may be such a key, but the keys cannot be read again now.
            OverloadedError: Too many requests wait for the keys.
        """
        if (known := self._known(key_id, algorithm)) is not None:
            return known
        asked_at = self._clock()
        if not self._is_reading and asked_at - self._tried_at >= _SHORTEST_S:
            self._begin()
        if self._reading is not None:
            await self._wait(self._reading)
            known = self._known(key_id, algorithm)
        is_current = self._reading is None and self._reason is None and self._tried_at >= asked_at
        if known is None and not is_current:
            wait = max(self._tried_at + _SHORTEST_S - self._clock(), _SHORTEST_WAIT_S)
            text = f"the keys of {self._source.issuer} lack that of the token; try again"
            raise UnavailableError(text, retry_after=wait)
        return known

    def _known(self, key_id: str | None, algorithm: str) -> SigningKey | None:
        fitting = [key for key in self.keys if algorithm in key.algorithms]
        if key_id is not None:
            fitting = [key for key in fitting if key.id == key_id]
        return fitting[0] if len(fitting) == 1 else None

    async def _wait(self, reading: "asyncio.Future[None]") -> None:
        if self._n_waiting >= _MOST_WAITING:
            text = "too many requests wait for the keys of the issuer"
            raise OverloadedError(text, retry_after=_SHORTEST_S)
        self._n_waiting += 1
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), _LONGEST_WAIT_S)
        finally:
            self._n_waiting -= 1

    @property
    def _is_reading(self) -> bool:
        """True if the keys are being read, and that may still succeed."""
        age = self._clock() - self._tried_at
        return self._reading is not None and age < _LONGEST_READING_S

    def _begin(self) -> None:
        """Begin to read the keys; a reading that blocks is given up."""
        self._tried_at = self._clock()
        if self._reading is not None:
            self._note(KeySourceError(f"they did not come within {_LONGEST_READING_S:g} s"))
            self._end_reading()
        if len(self._unfinished) >= _MOST_READINGS:
            self._note(KeySourceError(f"{_MOST_READINGS} attempts to read them have not ended"))
            return
        loop = asyncio.get_running_loop()
        reading: asyncio.Future[None] = loop.create_future()
        self._reading = reading
        self._unfinished.add(reading)

        def read() -> None:
            found: _Found
            try:
                found = parse_keys(self._source.read())
            except Exception as error:
                found = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._take, reading, found)

        try:
            self._start_thread(read)
        except RuntimeError as error:  # the system has no more threads
            self._take(reading, KeySourceError(str(error)))

    def _take(self, reading: "asyncio.Future[None]", found: _Found) -> None:
        """Use what a reading has found, unless it was given up."""
        self._unfinished.discard(reading)
        if reading is self._reading:
            self._note(found)
            self._end_reading()

    def _end_reading(self) -> None:
        """Let those go on who wait for the last reading."""
        reading, self._reading = self._reading, None
        if reading is not None and not reading.done():
            reading.set_result(None)

    def _note(self, found: _Found) -> None:
        if isinstance(found, Exception):
            is_known = isinstance(found, KeySourceError | ValueError)
            self._reason = str(found) if is_known else type(found).__name__
            state = "stay as they were" if self._keys else "are not known"
            logger.error("the keys of %s %s: %s", self._source.issuer, state, self._reason)
        else:
            self._reason, self._read_at = None, self._clock()
            if found != self._keys:
                self._keys = found
                logger.info("the keys of %s were read", self._source.issuer)
