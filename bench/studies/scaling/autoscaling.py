"""Replicas that come and go with the load, by one metric or another."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.studies.scaling.fleet import Fleet, Home
from bench.studies.scaling.parameters import Parameters

# The HorizontalPodAutoscaler looks every 15 s, and leaves what is within a tenth alone.
_LOOKS_EVERY_S, _TOLERANCE = 15.0, 0.1
_STABILIZED_UP_S, _STABILIZED_DOWN_S, _PERIOD_S = 30.0, 600.0, 60.0
_SAMPLED_EVERY_S = 60.0
# Time in s within which most of the walkers of a large job array have begun.
_GROWS_WITHIN_S = 300.0
# Step of a walker that users are to have, in s; all targets stand for it.
WANTED_STEP_S = 0.2


@dataclass(frozen=True)
class Scaling:
    """A way to scale.

    Attributes:
        metric: "queue atoms", "utilization" or "latency".
        start_s: Time from the decision to a replica that is ready, in s.
        percent_down: Percent of the replicas that may go per minute, at least one.
        interval: Mean time in s after which a walker looks at another replica.
    """

    metric: str = "queue atoms"
    start_s: float = 60.0
    percent_down: float = 0.0
    interval: float | None = 300.0


WAYS: Mapping[str, Scaling] = {
    "queue atoms": Scaling(percent_down=5.0),
    "latency": Scaling("latency", percent_down=5.0),
    "utilization": Scaling("utilization", percent_down=5.0),
    "queue atoms, one replica less per minute": Scaling(),
    "queue atoms, replicas start in 5 min": Scaling(start_s=300.0, percent_down=5.0),
    "queue atoms, walkers never look": Scaling(percent_down=5.0, interval=None),
}


def ramp(parameters: Parameters, n_least: int, n_most: int, seed: int) -> dict[str, Any]:
    """Return what each way does when a large job array begins, and after it has ended.

    Args:
        parameters: Times and sizes.
        n_least: Number of walkers in the beginning and in the end.
        n_most: Number in between.
        seed: Seed of all that is random.
    """
    return {
        name: _Ramp(parameters, n_least, n_most, seed, way).result() for name, way in WAYS.items()
    }


class _Ramp:
    """An hour with few walkers, two hours with many, which come within minutes, and three more."""

    hours = 6.0

    def __init__(
        self, parameters: Parameters, n_least: int, n_most: int, seed: int, way: Scaling
    ) -> None:
        self._parameters, self._way = parameters, way
        self._n_least, self._n_most = n_least, n_most
        self._target, self._metric = _metric(parameters, way.metric)
        mean_atoms = parameters.median_atoms * math.exp(parameters.spread_atoms**2 / 2.0)
        atoms_wanted = (WANTED_STEP_S - parameters.client_s) / parameters.per_atom_s
        n_homes = math.ceil(n_least * mean_atoms / atoms_wanted)
        self._fleet = Fleet(parameters, n_homes, seed, "two", way.interval)
        self._mean_run = parameters.mean_run_s
        for _ in range(n_least):
            self._fleet.arrive(float(self._fleet.random.exponential(self._mean_run)))
        self._n_coming = 0
        self._wanted: list[tuple[float, int]] = []
        self._counts: list[tuple[float, int]] = [(-_PERIOD_S, n_homes)]
        self._rows: list[tuple[float, ...]] = []
        self._n_most_homes = 10 * math.ceil(n_most * mean_atoms / atoms_wanted)

    def result(self) -> dict[str, Any]:
        """Run, and return the figures."""
        fleet, seconds = self._fleet, 3600.0 * self.hours
        fleet.arrive_at(self._rate, seconds)
        fleet.events.every(_LOOKS_EVERY_S, self._look)
        fleet.events.every(_SAMPLED_EVERY_S, self._sample)
        fleet.events.run(seconds)
        columns = np.array(self._rows).T
        steps, walkers = columns[3], columns[1]
        return {
            "minutes": np.round(columns[0] / 60.0, 1).tolist(),
            "walkers": walkers.astype(int).tolist(),
            "replicas": columns[2].astype(int).tolist(),
            "step_s": np.round(steps, 4).tolist(),
            "mean_step_s": round(float((steps * walkers).sum() / walkers.sum()), 3),
            "worst_step_s": round(float(steps.max()), 3),
            "late_percent": round(
                float(100.0 * (walkers * (steps > 1.5 * WANTED_STEP_S)).sum() / walkers.sum()), 1
            ),
            "replica_hours": round(float(columns[2].sum() * _SAMPLED_EVERY_S / 3600.0)),
        }

    def _rate(self) -> float:
        """Return the number of walkers that come per second: what is missing comes in minutes."""
        hours = self._fleet.events.now / 3600.0
        aim = self._n_most if 1.0 <= hours < 3.0 else self._n_least
        n_missing = max(aim - self._fleet.n_walkers, 0)
        return aim / self._mean_run + n_missing / _GROWS_WITHIN_S

    def _look(self) -> None:
        fleet, now = self._fleet, self._fleet.events.now
        n_ready = len(fleet.homes)
        value = float(np.mean([self._metric(home) for home in fleet.homes]))
        ratio = value / self._target
        n_now = n_ready + self._n_coming
        # Replicas that are not ready count as if they had nothing to do.
        wanted = n_now if abs(ratio - 1.0) <= _TOLERANCE else math.ceil(n_ready * ratio)
        self._wanted = [each for each in self._wanted if each[0] > now - _STABILIZED_DOWN_S]
        self._wanted.append((now, wanted))
        up = min(n for time, n in self._wanted if time > now - _STABILIZED_UP_S)
        down = max(n for _, n in self._wanted)
        before = next(n for time, n in reversed(self._counts) if time <= now - _PERIOD_S)
        if up > n_now:
            most = min(max(2 * before, before + 2), self._n_most_homes)
            self._start(min(up, most) - n_now)
        elif down < n_now and not self._n_coming:
            least = before - max(1, math.floor(before * self._way.percent_down / 100.0))
            for _ in range(n_now - max(down, least, 1)):
                fleet.remove(fleet.homes[fleet.draw(len(fleet.homes))])
        self._counts.append((now, len(fleet.homes) + self._n_coming))

    def _start(self, n: int) -> None:
        for _ in range(n):
            self._n_coming += 1
            self._fleet.events.after(self._way.start_s, self._come)

    def _come(self) -> None:
        self._n_coming -= 1
        self._fleet.homes.append(Home())

    def _sample(self) -> None:
        steps = self._fleet.step_s()
        self._rows.append(
            (
                self._fleet.events.now,
                float(self._fleet.n_walkers),
                float(len(self._fleet.homes)),
                float(steps.mean()),
            )
        )


def _metric(parameters: Parameters, name: str) -> tuple[float, Callable[[Home], float]]:
    """Return the target of a metric, and the function that reads it from a replica."""
    atoms_wanted = (WANTED_STEP_S - parameters.client_s) / parameters.per_atom_s

    def step(home: Home) -> float:
        return float(parameters.step_s(np.array(len(home.walkers)), np.array(home.n_atoms)))

    def utilization(home: Home) -> float:
        busy = parameters.fixed_s + parameters.per_atom_s * home.n_atoms
        return min(busy / step(home), 1.0) if home.n_atoms else 0.0

    def queue(home: Home) -> float:
        """Return the atoms that wait: while one half is in a batch, the other half waits."""
        return 0.5 * home.n_atoms

    return {
        "queue atoms": (0.5 * atoms_wanted, queue),
        "latency": (WANTED_STEP_S, step),
        "utilization": (0.8, utilization),
    }[name]
