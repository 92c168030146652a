"""Convert large replies outside the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    OUTPUTS,
    Nonconservativity,
    Prediction,
)

# Converting more than this would make all other callers wait noticeably.
_MAX_BYTES_INLINE = 100_000


_Result = TypeVar("_Result")


def reply_bytes(predictions: Sequence[Prediction]) -> int:
    """Return about how many bytes the arrays of predictions have."""
    arrays = (getattr(each, name) for each in predictions for name in OUTPUTS)
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


def nonconservativity_bytes(found: Nonconservativity) -> int:
    """Return about how many bytes the arrays of the answer have."""
    arrays = found.pair_norms, found.antisymmetric_pair_norms
    return sum(array.nbytes for array in arrays if array is not None)


def snapshot_bytes(snapshot: Snapshot) -> int:
    """Return about how many bytes travel."""
    return snapshot.positions.nbytes + snapshot.velocities.nbytes + len(snapshot.checkpoint)


async def convert(n_bytes: int, work: Callable[[], _Result]) -> _Result:
    """Convert this much to or from what travels; beside the event loop where it takes long."""
    return work() if n_bytes <= _MAX_BYTES_INLINE else await asyncio.to_thread(work)
