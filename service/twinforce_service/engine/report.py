"""Reports of evaluated batches, and the pace of a device derived from them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twinforce_dynamics.disagreement import SystemDisagreement
from twinforce_service.scheduling.request import Request

logger = logging.getLogger(__name__)

# Bounds of the delay that refused clients are advised to wait, in s.
_MIN_RETRY_AFTER, _MAX_RETRY_AFTER = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """The part of a batch that a caller has used.

    Attributes:
        caller: Name of the caller.
        n_systems: Number of its systems.
        n_atoms: Number of their atoms.
        device_s: Time on the device, in s: the part of the batch that they are expected to cost.
    """

    caller: str
    n_systems: int
    n_atoms: int
    device_s: float


def usage_of(batch: Sequence[Request[Any]], device_s: Sequence[float]) -> tuple[Usage, ...]:
    """Return what each caller has used of a batch.

    Args:
        batch: Requests of the batch.
        device_s: Time of each, in s.
    """
    found: dict[str, tuple[int, int, float]] = {}
    for request, seconds in zip(batch, device_s, strict=True):
        n_systems, n_atoms, total = found.get(request.caller.name, (0, 0, 0.0))
        used = n_systems + 1, n_atoms + request.n_atoms, total + seconds
        found[request.caller.name] = used
    return tuple(Usage(name, *used) for name, used in found.items())


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a GPU, in bytes.

    Attributes:
        device: Name of the device.
        used: Memory of tensors of the engine.
        reserved: Memory that the engine keeps for them; at least what is used.
        free: Memory that any process may take.
    """

    device: str
    used: int
    reserved: int
    free: int


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The size and the timings of one evaluated batch, or of some rows of a Jacobian.

    Attributes:
        model: Name of the model.
        n_systems: Number of systems in the batch.
        n_atoms: Number of atoms in the batch.
        queue_s: Time that each system waited, in s.
        compute_s: Time on the device, in s.
        n_rows: Number of rows of a Jacobian; 0 for predictions.
        held_s: Time that the batch waited for walkers while the device was free, in s.
        disagreements: Disagreement of the forces of each system for which both kinds were
            predicted.
        usage: Part of each caller.
        began: Beginning of the evaluation on the clock of `time.monotonic`, in s.
        fill: Part of the atoms or neighbor pairs that a batch may have, whichever is more.
        n_padding: Places for atoms that were evaluated empty.
        memory: Memory of the device, now and then.
        traces: Span of each request whose call is recorded, and the time that it waited in s.
    """

    model: str
    n_systems: int
    n_atoms: int
    queue_s: tuple[float, ...]
    compute_s: float
    n_rows: int = 0
    held_s: float = 0.0
    disagreements: tuple[SystemDisagreement, ...] = ()
    usage: tuple[Usage, ...] = ()
    began: float = 0.0
    fill: float = 0.0
    n_padding: int = 0
    memory: DeviceMemory | None = None
    traces: tuple[tuple[str, float], ...] = ()


class Pace:
    """The recent speed of a device, and the delay after which refused clients may come back."""

    def __init__(self) -> None:
        self._seconds_per_atom = 0.0

    def note(self, report: BatchReport) -> None:
        """Learn from a batch of predictions; rows of a Jacobian are ignored."""
        if not report.n_rows:
            latest = report.compute_s / report.n_atoms
            self._seconds_per_atom = 0.8 * self._seconds_per_atom + 0.2 * latest

    def retry_after(self, n_atoms: int) -> float:
        """Return the expected time for this many atoms, in s, within reasonable bounds."""
        return min(max(self._seconds_per_atom * n_atoms, _MIN_RETRY_AFTER), _MAX_RETRY_AFTER)


def guarded(on_batch: Callable[[BatchReport], None] | None) -> Callable[[BatchReport], None]:
    """Return a callback that logs the exceptions of another one; None stands for no callback."""

    def report_batch(report: BatchReport) -> None:
        try:
            if on_batch is not None:
                on_batch(report)
        except Exception:
            logger.exception("a batch could not be reported")

    return report_batch
