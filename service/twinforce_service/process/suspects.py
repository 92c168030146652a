"""Systems and runs that were on the device when an engine crashed, by a hash of their content.

A crash tells only that one of a batch may be to blame. So each of them is evaluated alone when it
comes again. What is answered is cleared; what crashes two engines alone is refused for a while. No
request that merely shared a batch with it is ever refused.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import Any

from twinforce_proto import FatalSystemError
from twinforce_service.engine.runs import Run
from twinforce_service.process.run_messages import run_to_frames
from twinforce_service.scheduling.request import JacobianRequest, Request

# Number of engines that crash on a system alone before it is refused.
_MOST_CRASHES = 2
# Seconds for which a suspect is evaluated alone if it comes, and for which a culprit is refused.
_SUSPECTED_FOR, _REFUSED_FOR = 120.0, 600.0
# With more culprits than this at a time, the engine itself is to blame.
_MANY_CULPRITS = 8
_MAX_KNOWN = 100_000


@dataclass(slots=True)
class _Record:
    """The crashes of an engine while it evaluated one system alone."""

    forgotten_at: float
    n_alone: int = 0


class Suspects:
    """Suspects and culprits of crashes, for all engines of a service; safe in any thread.

    Args:
        clock: Returns the time, in s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changing = Lock()
        self._records: dict[bytes, _Record] = {}
        self._forgets_at = inf

    def __bool__(self) -> bool:
        """Return True if there may be any; if not, nothing needs to be looked up."""
        return bool(self._records)

    def is_suspect(self, entry: Request[Any] | Run) -> bool:
        """Return True if a request or a run has to be evaluated alone.

        Raises:
            FatalSystemError: It crashed too many engines.
        """
        with self._changing:
            if self._clock() >= self._forgets_at:
                self._forget()
            record = self._records.get(fingerprint(entry)) if self._records else None
        if record is None:
            return False
        if record.n_alone >= _MOST_CRASHES:
            raise FatalSystemError(
                f"the engine exited {record.n_alone} times while it evaluated this alone; it is "
                "refused for a while",
                retry_after=max(record.forgotten_at - self._clock(), 1.0),
            )
        return True

    def clear(self, entry: Request[Any] | Run) -> None:
        """Note that a suspect was answered."""
        with self._changing:
            self._records.pop(fingerprint(entry), None)

    def note_crash(self, batch: Sequence[Request[Any] | Run]) -> bool:
        """Note that an engine crashed while this was on the device.

        Returns:
            True if the batch, and not the engine, is known to be to blame.
        """
        with self._changing:
            self._forget()
            for key in {fingerprint(entry) for entry in batch[:_MAX_KNOWN]}:
                self._suspect(key, is_alone=len(batch) == 1)
            culprits = [each for each in self._records.values() if each.n_alone >= _MOST_CRASHES]
            return (
                len(batch) == 1
                and self._records[fingerprint(batch[0])] in culprits
                and len(culprits) <= _MANY_CULPRITS
            )

    def _suspect(self, key: bytes, *, is_alone: bool) -> None:
        now = self._clock()
        record = self._records.setdefault(key, _Record(0.0))
        record.n_alone += is_alone
        is_culprit = record.n_alone >= _MOST_CRASHES
        record.forgotten_at = now + (_REFUSED_FOR if is_culprit else _SUSPECTED_FOR)
        self._forgets_at = min(self._forgets_at, record.forgotten_at)

    def _forget(self) -> None:
        """Drop the records whose time is over."""
        now = self._clock()
        for key in [key for key, each in self._records.items() if each.forgotten_at <= now]:
            del self._records[key]
        self._forgets_at = min((each.forgotten_at for each in self._records.values()), default=inf)


def fingerprint(entry: Request[Any] | Run) -> bytes:
    """Return a hash of all that the evaluation of a request, or the course of a run, depends on."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(entry, Run):
        for frame in run_to_frames(0, entry)[1:]:
            digest.update(bytes(frame))
        return digest.digest()
    system = entry.system
    rows = entry.rows if isinstance(entry, JacobianRequest) else None
    what = entry.model, sorted(entry.outputs), system.charge, system.spin_multiplicity, rows
    digest.update(repr(what).encode())
    for array in (system.atomic_numbers, system.positions, system.cell, system.pbc):
        digest.update(array.tobytes())
    return digest.digest()
