"""Limits on what one caller may ask for."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits on what one caller may ask for; infinity means no limit.

    Attributes:
        max_requests: Requests that are being answered at the same time; each step of a stream is
            one, and a run is one for as long as it lasts.
        max_atoms: Atoms of the systems in these requests, unless a single request has more.
        atoms_per_second: Atoms of the systems that are evaluated for requests, on average.
        max_runs: Systems that the service moves at the same time.
        steps_per_day: Inner steps of these runs in 24 hours.
    """

    max_requests: float = inf
    max_atoms: float = inf
    atoms_per_second: float = inf
    max_runs: float = inf
    steps_per_day: float = inf

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")


UNLIMITED = CallerLimits()
"""No limits."""
