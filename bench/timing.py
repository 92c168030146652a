"""Timing several things in turn, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Timing:
    """A median, and the range of the middle 80%: of times in ms, or of what follows from them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return that of these values, of which there must be some."""
        return cls(*np.percentile(values, [50, 10, 90]).tolist())

    def __str__(self) -> str:
        return f"{self.median:8.2f}  ({self.low:.2f} - {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Rounds:
    """How long each thing took in each round.

    Attributes:
        taken: Name -> ms, one for each round.
    """

    taken: Mapping[str, Sequence[float]]

    def timings(self) -> dict[str, Timing]:
        """Return how long each thing took."""
        return {name: Timing.of(values) for name, values in self.taken.items()}

    def ratio(self, name: str, base: str) -> Timing:
        """Return how many times as long as `base` it took, compared round by round."""
        return Timing.of(np.divide(self.taken[name], self.taken[base]).tolist())


def rounds_in_turn(
    things: Mapping[str, Callable[[], object]],
    seconds: float,
    n_warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    n_in_a_row: int = 1,
) -> Rounds:
    """Call all of the things in turn, again and again, every other round backwards.

    Args:
        things: Name -> what to call.
        seconds: For all of them together, warm-up apart.
        n_warm_up: Calls of each that do not count.
        clock: What a call is timed with. `time.process_time` leaves out what other programs take.
        n_in_a_row: Calls of a thing before it is the turn of the next one, of which the mean is
            told: for what is done without a pause, as the steps of a walker are.
    """
    for call in things.values():
        for _ in range(n_warm_up):
            call()
    taken: dict[str, list[float]] = {name: [] for name in things}
    order = list(things)
    end = time.perf_counter() + seconds
    with tqdm(desc="rounds", unit="") as bar:
        while time.perf_counter() < end or not bar.n:
            for name in order:
                call, begin = things[name], clock()
                for _ in range(n_in_a_row):
                    call()
                taken[name].append(1e3 * (clock() - begin) / n_in_a_row)
            order.reverse()
            bar.update()
    return Rounds(taken)


def time_in_turn(
    things: Mapping[str, Callable[[], object]],
    seconds: float,
    n_warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Return how long each thing takes, called as `rounds_in_turn` does."""
    return rounds_in_turn(things, seconds, n_warm_up, clock).timings()
