"""The report of a batch, and the pace of a device."""

from dataclasses import dataclass

from twinforce_dynamics.disagreement import SystemDisagreement

# Bounds of what a refused caller is advised to wait, in s.
_MIN_RETRY_AFTER, _MAX_RETRY_AFTER = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that was evaluated, or some rows of a Jacobian, for the metrics.

    Attributes:
        model: Its name.
        n_systems: Systems that shared the batch.
        n_atoms: Their atoms.
        queue_s: How long each of them waited, in s.
        compute_s: The time on the device, in s.
        n_rows: Rows of a Jacobian, where it was that and no predictions.
        held_s: How long it had waited for walkers while the device was free, in s.
        disagreements: Of the forces of each system that both kinds were asked of.
    """

    model: str
    n_systems: int
    n_atoms: int
    queue_s: tuple[float, ...]
    compute_s: float
    n_rows: int = 0
    held_s: float = 0.0
    disagreements: tuple[SystemDisagreement, ...] = ()


class Pace:
    """How fast a device has been lately, and so when a refused caller may come back."""

    def __init__(self) -> None:
        self._seconds_per_atom = 0.0

    def note(self, report: BatchReport) -> None:
        """Learn from a batch of predictions."""
        latest = report.compute_s / report.n_atoms
        self._seconds_per_atom = 0.8 * self._seconds_per_atom + 0.2 * latest

    def retry_after(self, n_atoms: int) -> float:
        """Return how long this many atoms will take, in s, within what is sensible advice."""
        return min(max(self._seconds_per_atom * n_atoms, _MIN_RETRY_AFTER), _MAX_RETRY_AFTER)
