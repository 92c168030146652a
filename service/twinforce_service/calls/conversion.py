"""Convert large requests and replies in a thread, so that the event loop stays responsive."""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import OUTPUTS, Nonconservativity, Prediction

# Converting more bytes than this would delay other requests noticeably, about a millisecond.
MAX_BYTES_INLINE = 100_000
# Bytes that take as long to convert as the objects of one system or prediction.
BYTES_PER_SYSTEM = 3000

_ARRAYS = tuple(name for name in OUTPUTS if name != "energy")

_Result = TypeVar("_Result")


def prediction_bytes(predictions: Sequence[Prediction]) -> int:
    """Return the size of predictions, in bytes: of their arrays, and of what each takes beside."""
    n_bytes = BYTES_PER_SYSTEM * (len(predictions) - 1)
    for each in predictions:
        for name in _ARRAYS:
            if (array := getattr(each, name)) is not None:
                n_bytes += array.nbytes
    return n_bytes


def nonconservativity_bytes(found: Nonconservativity) -> int:
    """Return the size of the arrays of norms, in bytes."""
    arrays = found.pair_norms, found.antisymmetric_pair_norms
    return sum(array.nbytes for array in arrays if array is not None)


def snapshot_bytes(snapshot: Snapshot) -> int:
    """Return the size of the arrays and the checkpoint of a snapshot, in bytes."""
    return snapshot.positions.nbytes + snapshot.velocities.nbytes + len(snapshot.checkpoint)


def relaxed_bytes(relaxed: Relaxed) -> int:
    """Return the size of the positions in a report of a relaxation, in bytes."""
    return relaxed.positions.nbytes


class Converter:
    """A thread that converts what is large, one after another.

    Several threads would not convert faster, as they share the interpreter; they would only hold
    more in memory, and let the event loop wait for each of them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "twinforce-converter")

    async def convert(self, n_bytes: int, work: Callable[[], _Result]) -> _Result:
        """Return the result of `work`, which runs in the thread if it converts many bytes."""
        return work() if n_bytes <= MAX_BYTES_INLINE else await self.convert_large(work)

    async def convert_large(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of `work`, which runs in the thread."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, context.run, work)

    def close(self) -> None:
        """End the thread once it has converted what was given to it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
