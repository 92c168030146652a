"""Walkers that stay while replicas come back: what choices and second looks do for them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.studies.scaling.fleet import Fleet, Home
from bench.studies.scaling.parameters import Parameters

# What is compared: the choice of new walkers, and the mean time between two looks, in s.
WAYS: Mapping[str, tuple[str, float | None]] = {
    "at random, never looking": ("random", None),
    "two choices, never looking": ("two", None),
    "two choices, a look every 30 min": ("two", 1800.0),
    "two choices, a look every 10 min": ("two", 600.0),
    "two choices, a look every 5 min": ("two", 300.0),
}
_SAMPLED_EVERY_S = 60.0


def recovery(
    parameters: Parameters, n_homes: int, n_walkers: int, minutes: float, seed: int
) -> dict[str, Any]:
    """Return how steps become equal again after a third of the replicas have come back empty."""
    return {
        name: _one(parameters, n_homes, n_walkers, 60.0 * minutes, seed, *way)
        for name, way in WAYS.items()
    }


def _one(
    parameters: Parameters,
    n_homes: int,
    n_walkers: int,
    seconds: float,
    seed: int,
    choice: str,
    interval: float | None,
) -> dict[str, Any]:
    n_back = n_homes // 3
    fleet = Fleet(parameters, n_homes - n_back, seed, choice, interval)
    mean_run = parameters.mean_run_s
    for _ in range(n_walkers):
        fleet.arrive(float(fleet.random.exponential(mean_run)))
    fleet.homes += [Home() for _ in range(n_back)]
    fleet.arrive_at(lambda: n_walkers / mean_run, seconds)
    rows: list[tuple[float, ...]] = []

    def sample() -> None:
        steps = fleet.step_s()
        rows.append(
            (fleet.events.now, float(steps.mean()), *np.percentile(steps, [50, 99]).tolist())
        )

    sample()
    fleet.events.every(_SAMPLED_EVERY_S, sample)
    fleet.events.run(seconds)
    hours = seconds / 3600.0
    columns = np.round(np.array(rows).T, 4).tolist()
    return {
        "minutes": [each / 60.0 for each in columns[0]],
        "mean_s": columns[1],
        "median_s": columns[2],
        "p99_s": columns[3],
        "moves_per_walker_and_hour": round(fleet.n_moves / n_walkers / hours, 2),
    }
