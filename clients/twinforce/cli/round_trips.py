"""Round trips of walkers, measured over a connection to a service."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from twinforce._client import Client, Stream
from twinforce_proto import Prediction, System

# Typical displacement of an atom between two evaluations, in Å along each axis: a step of 0.5 fs at
# room temperature. The service can then keep its neighbor list, as it does for a simulation.
_STEP_A = 0.003
# Evaluations before the first that counts.
_N_WARM_UP = 3
# The kinds of prediction take turns of about this many seconds, so that a machine whose speed
# changes treats all alike.
_TURN_S = 0.5


_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One evaluation, as a walker sees it.

    Attributes:
        seconds: Time from the request to the reply, in s.
        queue_s: Time of it that the request waited for the device, in s.
        compute_s: Time of it that the batch took on the device, in s.
        n_systems: Number of systems in the batch.
    """

    seconds: float
    queue_s: float
    compute_s: float
    n_systems: int


def time_walker(
    client: Client,
    system: System,
    model: str,
    kinds: Mapping[str, Collection[str]],
    seconds: float,
    show: Callable[[float], None],
) -> dict[str, list[RoundTrip]]:
    """Return the round trips of one walker that asks for one kind of prediction after another.

    Args:
        client: Client of the service.
        system: System to begin with.
        model: Name of the model.
        kinds: Outputs to ask for, by the name of the kind.
        seconds: Time for each kind, in s.
        show: Function that takes the time that has passed, in s.

    Raises:
        ServiceError: A prediction failed.
    """
    measured: dict[str, list[RoundTrip]] = {name: [] for name in kinds}
    n_turns = max(1, round(seconds / _TURN_S))
    with client.stream(model) as stream:
        walker = _Subject(stream, system, seed=0)
        for outputs in kinds.values():
            walker.warm_up(outputs)
        for turn in range(n_turns):
            for place, (name, outputs) in enumerate(kinds.items(), start=1):
                measured[name] += walker.walk(outputs, seconds / n_turns)
                show((turn * len(kinds) + place) * seconds / n_turns)
    return measured


def time_crowd(
    client: Client,
    system: System,
    model: str,
    outputs: Collection[str],
    n_walkers: int,
    seconds: float,
) -> tuple[list[RoundTrip], float]:
    """Return the round trips of many walkers at once, and the time that all took together, in s.

    Args:
        client: Client of the service.
        system: System that each begins with.
        model: Name of the model.
        outputs: Outputs to ask for.
        n_walkers: Number of walkers, each in a thread of its own.
        seconds: Time after which none begins another round trip, in s, once all are warm.

    Raises:
        ServiceError: A prediction failed.
    """
    start = threading.Barrier(n_walkers)

    def walk(seed: int) -> tuple[list[RoundTrip], float, float]:
        try:
            with client.stream(model) as stream:
                walker = _Subject(stream, system, seed)
                walker.warm_up(outputs)
                start.wait()
                began = time.perf_counter()
                trips = list(walker.walk(outputs, seconds))
                return trips, began, time.perf_counter()
        except BaseException:
            start.abort()  # the others would wait for this one for ever
            raise

    with ThreadPoolExecutor(n_walkers) as threads:
        several = _results([threads.submit(walk, seed) for seed in range(n_walkers)])
    first = min(began for _, began, _ in several)
    last = max(ended for _, _, ended in several)
    return [trip for trips, _, _ in several for trip in trips], last - first


class _Subject:
    """A walker whose atoms make small random steps, as in a simulation.

    Args:
        stream: Its stream.
        system: System to begin with.
        seed: Seed of its steps.
    """

    def __init__(self, stream: Stream, system: System, seed: int) -> None:
        self._stream, self._system = stream, system
        self._random = np.random.default_rng(seed)

    def warm_up(self, outputs: Collection[str]) -> None:
        for _ in range(_N_WARM_UP):
            self._step(outputs)

    def walk(self, outputs: Collection[str], seconds: float) -> Iterator[RoundTrip]:
        """Yield round trips until the time is over, at least one."""
        until = time.perf_counter() + seconds
        is_over = False
        while not is_over:
            began = time.perf_counter()
            prediction = self._step(outputs)
            now = time.perf_counter()
            yield _round_trip(now - began, prediction)
            is_over = now >= until

    def _step(self, outputs: Collection[str]) -> Prediction:
        # Around the start, so that no number of steps leads to where the model knows nothing.
        shift = self._random.normal(scale=_STEP_A, size=self._system.positions.shape)
        moved = replace(self._system, positions=self._system.positions + shift)
        return self._stream.predict(moved, tuple(outputs))


def _round_trip(seconds: float, prediction: Prediction) -> RoundTrip:
    timings = prediction.timings
    if timings is None:
        return RoundTrip(seconds, 0.0, 0.0, 1)
    return RoundTrip(seconds, timings.queue_s, timings.compute_s, timings.batch_n_systems)


def _results(several: Sequence[Future[_Result]]) -> list[_Result]:
    """Return the results of all, or raise the error that the others ended because of."""
    errors = [error for each in several if (error := each.exception()) is not None]
    for error in sorted(errors, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise error
    return [each.result() for each in several]
