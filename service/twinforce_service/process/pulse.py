"""The signs of life of an engine process, in memory that it shares with its parent.

A sign costs the engine a few writes to memory, and no message. The parent reads the last sign now
and then. When the process has ended, the memory still says which requests were on the device.
"""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twinforce_service.scheduling.request import Request

_FILE = "pulse"
# Words of 8 bytes: the number of signs, the seconds until the next one, the size of the batch.
_COUNT, _SECONDS, _N_BATCH, _N_HEAD = 0, 1, 2, 3
_N_BYTES = 8


class Beat(NamedTuple):
    """A sign of life.

    Attributes:
        number: Number of the sign.
        seconds: Time until the next one, beyond the time that is always allowed, in s.
    """

    number: int
    seconds: float


class SharedPulse:
    """The `Pulse` of an engine process; the process writes and the parent reads.

    Args:
        directory: Directory of the file that is mapped.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / _FILE
        with path.open("r+b") as file:
            shared = mmap.mmap(file.fileno(), path.stat().st_size)
        self._words = np.frombuffer(shared, np.int64)
        self._integers = memoryview(shared).cast("q")
        self._floats = memoryview(shared).cast("d")
        self._n_most = len(self._integers) - _N_HEAD
        self._n_signs = 0

    @classmethod
    def create(cls, directory: Path, max_batch: int) -> "SharedPulse":
        """Return a pulse without a sign, in a new file.

        Args:
            directory: Directory of the file.
            max_batch: Number of requests in the largest batch.
        """
        (directory / _FILE).write_bytes(bytes(_N_BYTES * (_N_HEAD + max_batch)))
        return cls(directory)

    def rest(self, seconds: float = 0.0) -> None:
        """Show that no batch is on the device."""
        self._integers[_N_BATCH] = 0
        self._show(seconds)

    def begin(self, batch: Sequence[Request[Any]], seconds: float) -> None:
        """Show that the evaluation of a batch begins, and which requests are in it."""
        n_batch = min(len(batch), self._n_most)
        numbers = [request.number for request in batch]
        self._words[_N_HEAD : _N_HEAD + n_batch] = numbers[:n_batch]
        self._integers[_N_BATCH] = n_batch
        self._show(seconds)

    def read(self) -> Beat:
        """Return the last sign."""
        return Beat(self._integers[_COUNT], self._floats[_SECONDS])

    def batch(self) -> list[int]:
        """Return the numbers of the requests that are on the device."""
        n_batch = self._integers[_N_BATCH]
        numbers: list[int] = self._words[_N_HEAD : _N_HEAD + n_batch].tolist()
        return numbers

    def _show(self, seconds: float) -> None:
        self._floats[_SECONDS] = seconds
        self._n_signs += 1
        self._integers[_COUNT] = self._n_signs
