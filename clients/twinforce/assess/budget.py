"""Deadlines, and the share of the remaining wall time that each unit of work gets."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time after which no new work begins.

    Attributes:
        end: Time on the clock of `time.monotonic`, in s.
    """

    end: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline that is this many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(self.end - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """True once the deadline has passed."""
        return time.monotonic() >= self.end


NEVER = Deadline(math.inf)
EXPIRED = Deadline(-math.inf)


def share_of(overall: Deadline, weight: float, later_weights: Iterable[float]) -> Deadline:
    """Return the deadline of the next unit; time that it does not use is left to later units.

    Args:
        overall: Deadline of all units together.
        weight: Weight of the next unit.
        later_weights: ServedWeights of the units that follow it.
    """
    if overall.end == math.inf:
        return overall
    total = weight + sum(later_weights)
    return Deadline.after(overall.seconds_left * (weight / total if total > 0 else 1.0))
