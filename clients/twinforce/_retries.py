"""The decision to repeat a call: for how long, after which pauses, and what the log says."""

import logging
import random
import time

from twinforce._options import Options
from twinforce._transports.transport import LostReplyError, MisdirectedError
from twinforce_proto import (
    DeadlineExceededError,
    OverloadedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)

logger = logging.getLogger("twinforce")

# An attempt begins at most a quarter of the wait so far after the last one, within these bounds.
_SHORTEST_BACKOFF_S, _LONGEST_BACKOFF_S = 0.1, 5.0
_SHORTEST_PAUSE_S = 0.02
# Seconds of waiting after which the log says so, and until it says so again.
_PATIENCE_S, _REMINDER_S = 1.0, 60.0
# An attempt that lasted longer before it failed had reached the service.
_LONGEST_CONTACT_S = 20.0
# Connections without a reply that may be lost in a row.
_MOST_LOSSES = 10


class Outage:
    """A time in which the service does not answer, shared by the calls of a client.

    It has no lock, which a fork could leave locked; at worst, a line is logged twice.
    """

    def __init__(self) -> None:
        self._began: float | None = None
        self._said: float | None = None
        self.has_reached = False
        """True once the service has answered a call."""

    def note_failure(self, error: ServiceError, began: float, limit: float | None) -> None:
        """Log that a call waits: once it has done so for a while, and every minute."""
        now = time.monotonic()
        if self._began is None:
            self._began = began
        is_new = self._said is None and now - began >= _PATIENCE_S
        if is_new or (self._said is not None and now - self._said >= _REMINDER_S):
            self._said = now
            left = "" if limit is None else f" for at most {limit - now:.0f} s more"
            logger.warning("waiting for the service%s: %s", left, error)

    def note_reply(self) -> None:
        """Log that the wait is over, if the log said that there was one."""
        self.has_reached = True
        began, said = self._began, self._said
        if began is not None:
            self._began = self._said = None
            if said is not None:
                waited = time.monotonic() - began
                logger.warning("the service answers again, after %.0f s", waited)


class Retries:
    """The attempts of one call, or of one run, until it is over or there is no time left.

    Args:
        options: The options of the client.
        outage: The outage that the calls of the client share.
        timeout: Seconds until the end of the call; None means no limit.
        counts_outages: True if the time of an outage counts against the timeout.
    """

    def __init__(
        self, options: Options, outage: Outage, timeout: float | None, *, counts_outages: bool
    ) -> None:
        self._options = options
        self._outage = outage
        self._timeout = timeout
        self._counts_outages = counts_outages
        self._started = time.monotonic()
        self._gives_up_at = _later(self._started, timeout)
        self._error: ServiceError | None = None
        self._waits_since: float | None = None
        self._n_failures = self._n_losses = 0
        self._may_renew = options.access.is_renewed
        self.n_lost = 0
        """Number of attempts whose reply was given up as lost."""

    def begin(self) -> float | None:
        """Begin an attempt and return the seconds that it may take; None means no limit.

        Raises:
            ServiceError: No time is left.
        """
        self._started = time.monotonic()
        if isinstance(self._error, UnavailableError) and not self._counts_outages:
            self._gives_up_at = _later(self._started, self._timeout)
        if self._gives_up_at is None:
            return None
        if (left := self._gives_up_at - self._started) <= 0:
            raise self._error or DeadlineExceededError(f"no answer within {self._timeout:.3g} s")
        return left

    def succeed(self) -> None:
        """Note a reply: earlier failures no longer count."""
        self._outage.note_reply()
        self._error = self._waits_since = None
        self._n_failures = self._n_losses = 0
        self._may_renew = self._options.access.is_renewed

    def pause_after(self, error: ServiceError) -> float:
        """Return the time to wait before the next attempt, in s.

        The wait is a capped back-off with jitter, on top of the `retry_after` of the error.

        Raises:
            ServiceError: The given error, if another attempt would not help or there is no time
                left for one.
        """
        if not isinstance(error, UnavailableError | DeadlineExceededError):
            self._outage.has_reached = True
        now = time.monotonic()
        has_no_news = isinstance(error, DeadlineExceededError) and now - self._started < _PATIENCE_S
        if has_no_news and isinstance(self._error, UnavailableError):
            raise self._error from error  # the last attempt was too short to tell more
        if self._waits_since is None or now - self._started > _LONGEST_CONTACT_S:
            self._n_losses += 1
            self._waits_since = now
        limit = self._limit(error)
        wait = error.retry_after or 0.0
        left = float("inf") if limit is None else limit - now - wait
        if not self._may_help(error) or left < _SHORTEST_BACKOFF_S:
            raise error
        self._error = error
        self._may_renew = self._may_renew and not isinstance(error, UnauthenticatedError)
        self._n_failures += 1
        self.n_lost += isinstance(error, LostReplyError)
        self._outage.note_failure(error, self._waits_since, limit)
        spacing = min(max((now - self._waits_since) / 4, _SHORTEST_BACKOFF_S), _LONGEST_BACKOFF_S)
        jitter = random.uniform(0.0, spacing)  # noqa: S311, nobody gains from guessing it
        pause = jitter - (now - self._started)
        # The last attempts are made shortly before the limit.
        return wait + min(max(pause, _SHORTEST_PAUSE_S), left / 2)

    def _may_help(self, error: ServiceError) -> bool:
        """Return True if another attempt may succeed."""
        if isinstance(error, UnauthenticatedError):
            # The key has expired, such as that of a stream; the next call has a new one.
            return self._may_renew and self._options.max_retries != 0
        if not isinstance(error, UnavailableError):
            return isinstance(error, OverloadedError) and error.retry_after is not None
        if isinstance(error, MisdirectedError) and not self._outage.has_reached:
            return False
        most = self._options.max_retries
        has_more = most is None or self._n_failures < most
        return error.retry_after is not None or (has_more and self._n_losses <= _MOST_LOSSES)

    def _limit(self, error: ServiceError) -> float | None:
        """Return the time after which an error is final; None if there is no limit."""
        assert self._waits_since is not None
        if isinstance(error, OverloadedError):
            return self._gives_up_at
        end_of_outage = _later(self._waits_since, self._options.longest_outage)
        if not self._counts_outages or self._gives_up_at is None:
            return end_of_outage
        return min(self._gives_up_at, end_of_outage or self._gives_up_at)


def _later(now: float, seconds: float | None) -> float | None:
    return None if seconds is None else now + seconds
