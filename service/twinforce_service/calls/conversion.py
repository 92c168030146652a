"""Convert large requests and replies in a thread, so that the event loop stays responsive."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import OUTPUTS, Nonconservativity, Prediction

# Converting more bytes than this would delay other requests noticeably.
_MAX_BYTES_INLINE = 100_000

_Result = TypeVar("_Result")


def prediction_bytes(predictions: Sequence[Prediction]) -> int:
    """Return the size of the arrays in predictions, in bytes."""
    arrays = (getattr(each, name) for each in predictions for name in OUTPUTS)
    return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


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


async def convert(n_bytes: int, work: Callable[[], _Result]) -> _Result:
    """Return the result of `work`, which runs in a thread if it converts many bytes."""
    return work() if n_bytes <= _MAX_BYTES_INLINE else await asyncio.to_thread(work)
