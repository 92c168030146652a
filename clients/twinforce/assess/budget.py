"""How a limited wall time is shared out."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nothing new begins.

    Attributes:
        end: As time.monotonic has it, in s.
    """

    end: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the one that is this far away."""
        return cls(time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        """How far it is away, at least 0, in s."""
        return max(self.end - time.monotonic(), 0.0)

    @property
    def is_over(self) -> bool:
        """Whether it has passed."""
        return time.monotonic() >= self.end


NEVER = Deadline(math.inf)
AT_ONCE = Deadline(-math.inf)


def share_of(whole: Deadline, weight: float, later_weights: Iterable[float]) -> Deadline:
    """Return until when one of several may go on; what it leaves, the later ones get.

    Args:
        whole: The deadline of all of them.
        weight: Of this one.
        later_weights: Of those that follow.
    """
    if whole.end == math.inf:
        return whole
    total = weight + sum(later_weights)
    return Deadline.after(whole.seconds_left * (weight / total if total > 0 else 1.0))
