"""Several engines that are started, watched and stopped together."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twinforce_proto import ServiceError
from twinforce_service.engine.engine import Engine, OwnedEngine
from twinforce_service.scheduling.request import Request


class EngineGroup:
    """The state and the lifecycle of several engines.

    Args:
        engines: At least one.
    """

    def __init__(self, engines: Sequence[OwnedEngine]) -> None:
        self._members = engines

    @property
    def has_started(self) -> bool:
        """True once all engines have been ready."""
        return all(engine.has_started for engine in self._members)

    @property
    def is_ready(self) -> bool:
        """True once all engines have been ready, while at least one accepts requests."""
        return self.has_started and any(engine.is_ready for engine in self._members)

    @property
    def is_alive(self) -> bool:
        """False if all engines have failed, or if one did not start."""
        are_alive = [engine.is_alive for engine in self._members]
        return any(are_alive) if self.has_started else all(are_alive)

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for a device."""
        return sum(engine.n_waiting for engine in self._members)

    @property
    def n_waiting_atoms(self) -> int:
        """Number of atoms of the requests that wait for a device."""
        return sum(engine.n_waiting_atoms for engine in self._members)

    def start(self) -> None:
        """Start all engines."""
        for engine in self._members:
            engine.start()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when all engines accept requests.

        Args:
            timeout: Seconds to wait for each engine; None means no limit.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated by one of the engines.
            UnavailableError: The engines were stopped first, or the time is up.
        """
        # Those that have failed come first, as they know the reason.
        for engine in sorted(self._members, key=lambda each: each.is_alive):
            engine.wait_until_ready(timeout)

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        with ThreadPoolExecutor(len(self._members)) as executor:
            for stopped in [executor.submit(engine.stop, timeout) for engine in self._members]:
                stopped.result()


def submit_all(shares: Iterable[tuple[Engine, Sequence[Request[Any]]]]) -> None:
    """Submit requests to their engines; if one refuses, cancel them all and raise its error."""
    accepted: list[Request[Any]] = []
    try:
        for engine, share in shares:
            engine.submit(share)
            accepted += share
    except ServiceError:
        for request in accepted:
            request.future.cancel()
        raise
