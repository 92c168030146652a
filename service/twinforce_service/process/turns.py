"""Turns of the engine processes that share a device, so that one batch runs at a time.

Two engines that compute at the same time would use twice as many threads as there are cores, or
the memory of a GPU twice. The device is a lock of a file, which the kernel releases when a process
dies. Beside it, in shared memory, each waiting engine states how much of the device it has had, and
the one that has had the least goes first: engines that are busy have equal shares of the time, not
of the batches. An engine that was idle has no claim to the past.
"""

import fcntl
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Seconds after which an engine uses the device all the same, as a batch takes long or is stuck.
_PATIENCE = 10.0
# Seconds between two looks at the device: this part of the time waited so far, within bounds.
_PART, _SHORTEST, _LONGEST = 0.05, 0.00005, 0.002
_N_BYTES = 8
_NOT_WAITING = np.inf


class DeviceTurns:
    """The device of several engine processes, as their parent sees it.

    Args:
        n_engines: Number of engines.
    """

    def __init__(self, n_engines: int) -> None:
        self.n_engines = n_engines
        with tempfile.TemporaryFile() as file:
            self.descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.descriptor)
        os.truncate(self.descriptor, _N_BYTES * (1 + n_engines))
        self._state = _mapped(self.descriptor)
        self._state[1:] = _NOT_WAITING

    def is_waiting(self, index: int) -> bool:
        """Return True while an engine waits for the device."""
        return bool(self._state[1 + index] != _NOT_WAITING)

    def forget(self, index: int) -> None:
        """Let the others no longer wait for an engine that has exited."""
        self._state[1 + index] = _NOT_WAITING


@dataclass(frozen=True, slots=True, eq=False)
class TurnOf:
    """The place of one engine among those that share a device.

    Attributes:
        turns: All of them.
        index: Index of this engine.
    """

    turns: DeviceTurns
    index: int


class SharedDevice:
    """The `Turn` of an engine process whose device others use as well.

    Args:
        descriptor: Descriptor of the file that the parent has made.
        index: Index of this engine.
        clock: Returns the time, in s.

    Attributes:
        patience: Time that `begin` may take, in s.
    """

    patience = _PATIENCE

    def __init__(
        self, descriptor: int, index: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._descriptor = descriptor
        self._state = _mapped(descriptor)
        self._waiting, self._own = self._state[1:], index
        self._clock = clock
        self._used = 0.0
        self._started_at: float | None = None

    def begin(self) -> bool:
        """Return when the device may be used, True if other engines have used it meanwhile."""
        if self._started_at is not None:
            return False
        self._used = max(self._used, float(self._state[0]))
        self._waiting[self._own] = self._used
        has_waited = self._wait()
        self._waiting[self._own] = _NOT_WAITING
        self._started_at = self._clock()
        return has_waited

    def end(self) -> None:
        """Leave the device to the others, if it was used."""
        if self._started_at is None:
            return
        self._used += self._clock() - self._started_at
        self._started_at = None
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _wait(self) -> bool:
        """Wait for the device as long as it is worth it; return False if it was free at once."""
        if self._take():
            return False
        came_at = self._clock()
        waited = 0.0
        while not self._take() and waited <= _PATIENCE:
            time.sleep(min(max(_PART * waited, _SHORTEST), _LONGEST))
            waited = self._clock() - came_at
        return True

    def _take(self) -> bool:
        """Take the device if it is free and no other engine that waits has had less of it."""
        if int(self._waiting.argmin()) != self._own:
            return False
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another engine uses the device
            return False
        self._state[0] = self._used
        return True


def _mapped(descriptor: int) -> NDArray[np.float64]:
    """Return the shared state: the time that the last engine had had, and those that wait."""
    return np.frombuffer(mmap.mmap(descriptor, os.fstat(descriptor).st_size), np.float64)
