"""Names that stand for several replicas, whose addresses are looked up again and again.

The first look-up is waited for. Later ones are made by threads, so that no step waits for them.
"""

import _thread
import asyncio
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from threading import TIMEOUT_MAX

from twinforce._transports.proxies import route_to
from twinforce._transports.transport import (
    NO_SUCH_HOST,
    MisdirectedError,
    deadline_exceeded,
    misdirected,
    unreachable,
)
from twinforce._transports.url import Url
from twinforce_proto import ServiceError, UnavailableError

# Times in s after which addresses are looked up again: while all is well, after a failure of one of
# them, and if none answers. They are random, so that the clients of a zone that is lost do not all
# ask at once.
_INTERVAL_S, _AFTER_FAILURE_S, _SHORTEST_INTERVAL_S = (20.0, 40.0), (0.0, 5.0), 1.0

# Errors of the resolver for a name that does not exist. All others may pass: a name may have no
# address because no replica is ready, and the resolver or this process may lack something.
_NO_SUCH_NAME = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_ADDRFAMILY")} - {None}


def replicas_of(url: Url) -> list[Url]:
    """Return the URL of each replica that a URL stands for, as it is now.

    A proxy looks names up itself, so that a URL that is reached through one stays as it is.

    Raises:
        MisdirectedError: There is no host of this name.
        UnavailableError: The host has no address at the moment, or the resolver does not answer.
    """
    if not url.is_dns:
        return [url]
    route = route_to(url)
    if route.proxy is not None:
        return [replace(url, is_dns=False)]
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise misdirected(route, error, NO_SUCH_HOST) from error
    except OSError as error:
        if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
            raise misdirected(route, error, NO_SUCH_HOST) from error
        raise unreachable(route, error) from error
    addresses = dict.fromkeys(str(where[0]) for *_, where in found)
    return [url.at(address) for address in addresses]


class _LookUp:
    """A look-up that may be in progress, and those that wait for its end.

    It takes no lock, which an interrupt could leave locked.
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._callbacks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Call a function once the look-up has ended, in any thread."""
        self._callbacks.put(callback)
        if self.has_ended:
            self._call_all()

    def end(self) -> None:
        """Let those go on who wait."""
        self.has_ended = True
        self._call_all()

    def _call_all(self) -> None:
        with suppress(Empty):
            while True:
                self._callbacks.get_nowait()()


class Names:
    """The hosts of an address, and the replicas that they stand for.

    It takes no lock, which a fork could leave locked; at worst, two threads look up at once.

    Args:
        urls: URL of each host.
        clock: Time in s.

    Attributes:
        found: URLs of the replicas, as they were found last; empty before that.
    """

    def __init__(self, urls: Sequence[Url], clock: Callable[[], float] = time.monotonic) -> None:
        self._urls = urls
        self._clock = clock
        self._error: ServiceError | None = None
        # The last addresses of each name, until it does not exist any more.
        self._by_name: dict[Url, list[Url]] = {}
        self._n_failures = 0
        self._began = self._due_at = float("-inf")
        self._last: _LookUp | None = None
        self.is_fixed = not any(each.is_dns for each in urls)
        self.found: tuple[Url, ...] = tuple(urls) if self.is_fixed else ()

    def refresh(self, n_failures: int, is_any_available: Callable[[], bool]) -> bool:
        """Begin a look-up if one is due; return True if there are URLs to use.

        Args:
            n_failures: Number of failures of replicas so far; a new one makes a look-up due.
            is_any_available: Returns False if all replicas are left out after failures.
        """
        if not self.is_fixed:
            if n_failures != self._n_failures:
                self._n_failures = n_failures
                pause = random.uniform(*_AFTER_FAILURE_S) if is_any_available() else 0.0  # noqa: S311
                soon = max(self._clock() + pause, self._began + _SHORTEST_INTERVAL_S)
                self._due_at = min(self._due_at, soon)
            is_looking = self._last is not None and not self._last.has_ended
            if not is_looking and self._clock() >= self._due_at:
                self._begin()
        return bool(self.found)

    def _begin(self) -> None:
        self._last = look_up = _LookUp()
        self._began = self._clock()
        try:
            _thread.start_new_thread(self._look_up, (look_up,))
        except RuntimeError as error:  # the system has no more threads
            self._error = UnavailableError(f"{self._urls[0]}: cannot be looked up now: {error}")
            self._due_at = self._began + _SHORTEST_INTERVAL_S
            look_up.end()

    def wait(self, timeout: float | None) -> None:
        """Wait until there are URLs to use.

        Args:
            timeout: Seconds to wait; None means no limit.

        Raises:
            ServiceError: No name stands for an address.
        """
        ended: SimpleQueue[None] = SimpleQueue()
        if self._last is not None:
            self._last.call_at_end(partial(ended.put, None))
            try:
                ended.get(timeout=None if timeout is None else min(timeout, TIMEOUT_MAX))
            except Empty:
                raise deadline_exceeded(route_to(self._urls[0]), timeout) from None
        self._check_found()

    async def wait_async(self, timeout: float | None) -> None:
        """Wait like `wait`; a canceled wait does not last until the resolver answers."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_finish, ended)

        if self._last is not None:
            self._last.call_at_end(tell)
            try:
                await asyncio.wait_for(ended, timeout)
            except TimeoutError:
                raise deadline_exceeded(route_to(self._urls[0]), timeout) from None
        self._check_found()

    def _check_found(self) -> None:
        if not self.found:
            raise self._error or UnavailableError(f"{self._urls[0]}: no address was found")

    def _look_up(self, look_up: _LookUp) -> None:
        try:
            self._find()
        finally:
            look_up.end()

    def _find(self) -> None:
        errors: list[ServiceError] = []
        for url in self._urls:
            try:
                self._by_name[url] = replicas_of(url)
            except ServiceError as error:
                errors.append(error)
                if isinstance(error, MisdirectedError):
                    self._by_name.pop(url, None)
            except ValueError as error:  # the environment names something that is no proxy
                errors.append(MisdirectedError(str(error)))
        found = [each for url in self._urls for each in self._by_name.get(url, ())]
        if found:
            # Of several names for one address, the first counts.
            self.found = tuple({each.target: each for each in reversed(found)}.values())
        temporary = [each for each in errors if not isinstance(each, MisdirectedError)]
        self._error = next(iter(temporary or errors), None)
        pause = random.uniform(*_INTERVAL_S)  # noqa: S311
        self._due_at = self._clock() + (
            pause if len(errors) < len(self._urls) else _SHORTEST_INTERVAL_S
        )


def _finish(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)
