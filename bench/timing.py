"""Timing several things in turn, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one thing took, in ms: median, and the range of the middle 80%."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:8.2f}  ({self.low:.2f} - {self.high:.2f})"


def time_in_turn(
    things: Mapping[str, Callable[[], object]],
    seconds: float,
    n_warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Call all of the things in turn, again and again, and time each call.

    Args:
        things: Name -> what to call.
        seconds: For all of them together, warm-up apart.
        n_warm_up: Calls of each that do not count.
        clock: What a call is timed with. `time.process_time` leaves out what other programs take.
    """
    for call in things.values():
        for _ in range(n_warm_up):
            call()
    taken: dict[str, list[float]] = {name: [] for name in things}
    end = time.perf_counter() + seconds
    with tqdm(desc="rounds", unit="") as bar:
        while time.perf_counter() < end or not bar.n:
            for name, call in things.items():
                begin = clock()
                call()
                taken[name].append(1e3 * (clock() - begin))
            bar.update()
    return {name: Timing(*np.percentile(ms, [50, 10, 90]).tolist()) for name, ms in taken.items()}
