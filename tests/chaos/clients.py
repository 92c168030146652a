"""The clients that have to survive: walkers, propagations and relaxations, and some rude ones."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.systems import crystal
from twinforce import Client, Integrator, OverloadedError, ServiceError, Start

_MODEL = "troubled"
_N_ATOMS = 27
_DT = 0.02
_MAX_STEPS = 5000
# Largest difference of positions without a fault, in Å, as batches of other sizes round otherwise.
_ROUNDING = 1e-6
# Largest force on an atom of a relaxed system, in eV/Å.
_FMAX = 1e-3

# Number of steps of all clients, which the process that injects the faults reads.
_progress: Any = None


@dataclass(frozen=True)
class Load:
    """The work of all clients of one trial.

    Attributes:
        n_walkers: Number of walkers, half of them over REST.
        n_runs: Number of propagations, and of relaxations.
        n_steps: Number of steps of each walker.
        limit: Seconds that a client may take before it counts as hung.
    """

    n_walkers: int
    n_runs: int
    n_steps: int
    limit: float = 600.0

    @property
    def n_clients(self) -> int:
        """Number of clients."""
        return self.n_walkers + 2 * self.n_runs


@dataclass
class Outcome:
    """The end of one client: what it found or an error; it hangs if it has neither.

    Attributes:
        found: Last positions in Å, or the largest force in a relaxed system in eV/Å.
        error: Error that it ended with.
        pause_s: Longest time between two of its steps, in s.
    """

    found: NDArray[np.float64] | None = None
    error: str = ""
    pause_s: float = 0.0

    def equals(self, other: "Outcome") -> bool:
        """Return True unless both found something, and not the same."""
        if self.found is None or other.found is None:
            return True
        if self.found.shape == (1,):
            return bool(self.found[0] <= 1.01 * _FMAX)
        return bool(np.allclose(self.found, other.found, rtol=0.0, atol=_ROUNDING))


def share_progress(progress: Any) -> None:
    """Count the steps of this process in a shared number."""
    global _progress
    _progress = progress


def walk_all(urls: tuple[str, str], load: Load, part: int, n_parts: int) -> dict[str, Outcome]:
    """Move one part of the walkers, each in a thread, and return how each ended."""
    numbers = range(part, load.n_walkers, n_parts)
    return _outcomes(
        {
            f"walker {number}": lambda number=number: _walk(
                urls[number % 2], number, load.n_steps, load.limit
            )
            for number in numbers
        },
        load.limit,
    )


def run_all(urls: tuple[str, str], load: Load) -> dict[str, Outcome]:
    """Let the service move systems, and return how each run ended."""
    calls: dict[str, Callable[[], NDArray[np.float64]]] = {}
    for number in range(load.n_runs):
        url = urls[number % 2]
        calls[f"propagation {number}"] = lambda url=url, number=number: _propagate(
            url, number, 4 * load.n_steps, load.limit
        )
        calls[f"relaxation {number}"] = lambda url=url, number=number: _relax(
            url, number, load.limit
        )
    return _outcomes(calls, load.limit)


def flood(url: str, seconds: float) -> tuple[int, int]:
    """Ask for far too much from many connections; return the numbers of answers and refusals."""
    until, counts = time.monotonic() + seconds, [0, 0]
    systems = [crystal(64, seed=seed) for seed in range(64)]

    def ask() -> None:
        with Client(url, timeout=10.0, max_retries=0) as client:
            while time.monotonic() < until:
                try:
                    client.predict(systems, model=_MODEL)
                    counts[0] += 1
                except OverloadedError:
                    counts[1] += 1
                except ServiceError:
                    pass

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 15.0)
    return counts[0], counts[1]


def vanish(urls: tuple[str, str], n_clients: int, after: float) -> None:
    """Start walkers and runs, and end this process without a word; call it in its own process."""
    calls: list[Callable[[], object]] = []
    for number in range(n_clients):
        url = urls[number % 2]
        calls.append(lambda url=url, number=number: _walk(url, number, 10**6, after + 60.0))
        calls.append(lambda url=url, number=number: _propagate(url, number, 10**5, after + 60.0))
    for call in calls:
        threading.Thread(target=call, daemon=True).start()
    time.sleep(after)
    os._exit(1)


def _outcomes(
    calls: "dict[str, Callable[[], NDArray[np.float64]]]", limit: float
) -> dict[str, Outcome]:
    found = {name: Outcome() for name in calls}

    def follow(name: str) -> None:
        _pauses.begin()
        try:
            found[name].found = calls[name]()
        except Exception as error:
            found[name].error = f"{type(error).__name__}: {error}"
        found[name].pause_s = _pauses.longest

    threads = [threading.Thread(target=follow, args=[name], daemon=True) for name in calls]
    until = time.monotonic() + limit
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    return found


class _Pauses(threading.local):
    """The longest time between two steps of the client of this thread, in s."""

    longest = 0.0
    _last: float | None = None

    def begin(self) -> None:
        """Begin with a new client."""
        self.longest, self._last = 0.0, None

    def note_step(self) -> None:
        """Note that the client has taken a step."""
        now = time.monotonic()
        if self._last is not None:
            self.longest = max(self.longest, now - self._last)
        self._last = now


_pauses = _Pauses()


def _tick() -> None:
    _pauses.note_step()
    if _progress is not None:
        with _progress.get_lock():
            _progress.value += 1


def _walk(url: str, number: int, n_steps: int, limit: float) -> NDArray[np.float64]:
    """Run velocity Verlet with masses of 1, each step of it over the network."""
    system = crystal(_N_ATOMS, seed=number)
    velocities = np.zeros_like(system.positions)
    with Client(url, timeout=limit) as client, client.stream(model=_MODEL) as stream:
        forces = stream.predict(system).conservative_forces
        for _ in range(n_steps):
            velocities = velocities + 0.5 * _DT * forces
            system = system.moved(system.positions + _DT * velocities)
            forces = stream.predict(system).conservative_forces
            velocities = velocities + 0.5 * _DT * forces
            _tick()
    return system.positions


def _propagate(url: str, number: int, n_steps: int, limit: float) -> NDArray[np.float64]:
    start = crystal(_N_ATOMS, seed=100 + number)
    begin = Start(start, np.zeros((_N_ATOMS, 3)), Integrator(inner_steps=2), random=number)
    with Client(url, timeout=limit) as client:
        for snapshot in client.propagate(begin, n_steps, 8, model=_MODEL):
            _tick()
            positions = snapshot.positions
    return positions


def _relax(url: str, number: int, limit: float) -> NDArray[np.float64]:
    """Return the largest force, asked again: one that is continued may find another minimum."""
    system = crystal(_N_ATOMS, seed=200 + number)
    with Client(url, timeout=limit) as client:
        for report in client.relax(
            system, fmax=_FMAX, max_steps=_MAX_STEPS, interval=4, model=_MODEL
        ):
            _tick()
            system = system.moved(report.positions)
        forces = client.predict(system, model=_MODEL).conservative_forces
    return np.array([np.linalg.norm(forces, axis=1).max()])
