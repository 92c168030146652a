"""The loss of a zone: a third of all walkers look for another replica at about the same time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.studies.scaling.events import Events
from bench.studies.scaling.parameters import Parameters

# Time in s after which the pings of a client tell that a connection is dead.
_NOTICED_S = (8.0, 13.0)
# Time in s after which the names no longer stand for replicas whose node is gone: Kubernetes waits
# 40 s for a node, and then takes its pods out of the Service.
_FORGOTTEN_S = 45.0
# Age in s of the loads in a table that all clients read, for the choice of the least loaded.
_TABLE_AGE_S = 15.0
_BIN_S = 0.1


@dataclass(frozen=True)
class Behavior:
    """A behavior of clients.

    Attributes:
        choice: "random"; "least", of a common table of loads; or "two" of that table.
        connect_s: Time that opening a connection may take, in s.
        is_noticed_at_once: True if all walkers notice the loss at the same time.
        lookup_s: Time in s within which names are looked up again after a failure, at random.
    """

    choice: str = "random"
    connect_s: float = 8.0
    is_noticed_at_once: bool = False
    lookup_s: float = 0.0


WAYS: Mapping[str, Behavior] = {
    "the least loaded of all": Behavior("least", 3.0),
    "two choices": Behavior("two", 3.0),
    "at random": Behavior("random", 3.0),
    "at random, 8 s to connect": Behavior("random", 8.0),
    "at random, all at once": Behavior("random", 3.0, is_noticed_at_once=True),
    "at random, all at once, look-ups within 5 s": Behavior(
        "random", 3.0, is_noticed_at_once=True, lookup_s=5.0
    ),
}


def loss(parameters: Parameters, n_homes: int, n_walkers: int, seed: int) -> dict[str, Any]:
    """Return the pauses of walkers, and the crowds, for each behavior."""
    found = {}
    for name, way in WAYS.items():
        found[name] = _Loss(parameters, n_homes, n_walkers, seed, way).result()
    return found


class _Loss:
    """The walkers of the lost zone, each a client of its own that knows all addresses."""

    def __init__(
        self, parameters: Parameters, n_homes: int, n_walkers: int, seed: int, way: Behavior
    ) -> None:
        self._parameters, self._way = parameters, way
        self._random = np.random.default_rng(seed)
        self._events = Events()
        n_lost = n_homes // 3
        self._is_dead = np.arange(n_homes) < n_lost
        self._counts = np.full(n_homes, n_walkers / n_homes)
        self._counts[:n_lost] = 0.0
        self._free_at = np.zeros(n_homes)
        self._table = self._counts.copy()
        self._table[:n_lost] = n_walkers / n_homes
        self._longest_line_s = 0.0
        self._lookups: list[float] = []
        self._pauses: list[float] = []
        self._n_homes = n_homes
        n_moving = n_walkers * n_lost // n_homes
        noticed = self._random.uniform(*_NOTICED_S, n_moving)
        for time in np.full(n_moving, _NOTICED_S[0]) if way.is_noticed_at_once else noticed:
            self._events.at(float(time), self._lose)
        self._events.every(_TABLE_AGE_S, self._publish)

    def result(self) -> dict[str, Any]:
        """Run until all have moved, and return the figures."""
        self._events.run(300.0)
        alive = self._counts[~self._is_dead]
        rates = np.histogram(self._lookups, np.arange(0.0, 120.0, _BIN_S))[0] / _BIN_S
        median, most, longest = np.percentile(self._pauses, [50, 99, 100])
        return {
            "pauses_s": np.round(np.percentile(self._pauses, np.arange(101)), 2).tolist(),
            "median_s": round(float(median), 1),
            "p99_s": round(float(most), 1),
            "longest_s": round(float(longest), 1),
            "fullest_over_mean": round(float(alive.max() / alive.mean()), 2),
            "longest_line_s": round(float(self._longest_line_s), 2),
            "lookups_per_s": int(rates.max()),
        }

    def _publish(self) -> None:
        self._table = self._counts.copy()
        if self._events.now < _FORGOTTEN_S:
            self._table[self._is_dead] = self._table[~self._is_dead].mean()

    def _lose(self) -> None:
        self._lookups.append(self._events.now + self._random.uniform(0.0, self._way.lookup_s))
        self._attempt()

    def _attempt(self) -> None:
        home = self._choose()
        if self._is_dead[home]:
            self._events.after(self._way.connect_s, self._attempt)
            return
        now = self._events.now
        done = max(now, self._free_at[home]) + self._parameters.handshake_s
        self._free_at[home] = done
        self._longest_line_s = max(self._longest_line_s, done - now)
        self._counts[home] += 1
        self._pauses.append(float(done))

    def _choose(self) -> int:
        # Once the names were looked up, they stand for replicas that are alive.
        first = 0 if self._events.now < _FORGOTTEN_S else int(self._is_dead.sum())
        if self._way.choice == "least":
            # Of equal ones, any.
            table = self._table[first:]
            emptiest = np.flatnonzero(table <= table.min() + 0.5)
            return first + int(self._random.choice(emptiest))
        one, other = self._random.integers(first, self._n_homes, 2)
        is_random = self._way.choice == "random"
        return int(one if is_random or self._table[one] <= self._table[other] else other)
