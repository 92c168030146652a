"""Timing of several functions in turn, so that other load on the machine affects all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Timing:
    """The median and the middle 80% of some values: times in ms, or quantities derived from them.

    Attributes:
        median: The 50th percentile.
        low: The 10th percentile.
        high: The 90th percentile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the median and the range of at least one value."""
        return cls(*np.percentile(values, [50, 10, 90]).tolist())

    def __str__(self) -> str:
        return f"{self.median:8.2f}  ({self.low:.2f} - {self.high:.2f})"


@dataclass(frozen=True, slots=True)
class Rounds:
    """The time that each function took in each round.

    Attributes:
        taken: Name -> one time for each round, in ms.
    """

    taken: Mapping[str, Sequence[float]]

    def timings(self) -> dict[str, Timing]:
        """Return the median time of each function."""
        return {name: Timing.of(values) for name, values in self.taken.items()}

    def ratio(self, name: str, base: str) -> Timing:
        """Return the time of `name` over that of `base`, compared round by round."""
        return Timing.of(np.divide(self.taken[name], self.taken[base]).tolist())


def rounds_in_turn(
    things: Mapping[str, Callable[[], object]],
    seconds: float,
    n_warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    n_in_a_row: int = 1,
) -> Rounds:
    """Call all functions in turn, repeatedly, every other round in reverse order.

    Args:
        things: Name -> function to call.
        seconds: Duration of all calls together, without the warm-up.
        n_warm_up: Number of calls of each function before the measurement.
        clock: Clock for the calls. `time.process_time` ignores the time of other programs.
        n_in_a_row: Number of calls of a function in its turn, of which the mean counts. Use more
            than one for calls that follow each other without a pause, as steps of a walker do.
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
    """Return the median time of each function, called as `rounds_in_turn` does."""
    return rounds_in_turn(things, seconds, n_warm_up, clock).timings()
