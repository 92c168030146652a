"""A discrete-event simulation of walkers, a queue and a device.

The queue and the decisions to hold batches are those of the service; only the time is simulated.
"""

import heapq
from dataclasses import dataclass
from itertools import count

import numpy as np

from tests.systems import molecule
from twinforce_service.scheduling.batch_queue import BatchQueue
from twinforce_service.scheduling.holding import Holding
from twinforce_service.scheduling.request import Limits, Request, Walker

OUTPUTS = frozenset({"conservative_forces"})
PAIRS_PER_ATOM = 50


@dataclass(frozen=True)
class Device:
    """A device that takes fixed + per_atom · atoms seconds for a batch, with relative noise."""

    fixed: float
    per_atom: float
    noise: float = 0.02


@dataclass(frozen=True)
class Outcome:
    """The outcome of the second half of a simulation, in which all delays and costs are known."""

    n_answers: int
    seconds: float
    latency: float
    n_batches: int
    held: float
    longest_hold: float

    @property
    def throughput(self):
        return self.n_answers / self.seconds


def simulate(device, returns, n_atoms, seconds, max_hold, seed=0, max_batch_atoms=20_000):
    """Return the outcome of a simulated service.

    Args:
        device: Device that evaluates the batches.
        returns: For each walker, a function that draws the delay before its next request, in s.
        n_atoms: Number of atoms of each walker.
        seconds: Simulated time, in s.
        max_hold: Longest time that a batch waits for walkers, in s; 0 means that none waits.
        seed: Seed of all random numbers.
        max_batch_atoms: Number of atoms that fit into a batch.
    """
    random = np.random.default_rng(seed)
    limits = Limits(max_batch_atoms=max_batch_atoms, max_hold=max_hold)
    queue, holding = BatchQueue(limits), Holding(limits)
    walkers, systems = [Walker(str(i)) for i in range(len(returns))], [*map(molecule, n_atoms)]
    numbers = count()
    events = [(device.fixed * random.random(), next(numbers), i) for i in range(len(returns))]
    heapq.heapify(events)
    free_at = now = 0.0
    hold = held_since = None
    answers, latencies, held, n_batches = [], [], [], 0

    while now < seconds:
        wake = events[0][0] if events else np.inf
        if queue and (held_since is None or not hold.awaited or hold.until <= now):
            if held_since is None and now >= free_at:
                hold = holding.hold(queue.peek(), now)
                held_since = now if hold else None
            if now >= free_at and (hold is None or not hold.awaited or hold.until <= now):
                held.append((now, 0.0 if held_since is None else now - held_since))
                hold = held_since = None
                batch = queue.next_batch(now).batch
                n_batches += now > seconds / 2
                atoms = sum(each.n_atoms for each in batch)
                noise = 1 + device.noise * random.standard_normal()
                took = (device.fixed + device.per_atom * atoms) * noise
                free_at = now + took
                holding.note_batch(batch, took, free_at)
                for each in batch:
                    i = int(each.walker.id)
                    answers.append(free_at)
                    latencies.append((free_at, free_at - each.submitted_at))
                    back = free_at + returns[i](random)
                    heapq.heappush(events, (back, next(numbers), i))
                continue
        if queue:
            wake = min(wake, free_at if free_at > now else hold.until)
        now = wake
        while events and events[0][0] <= now:
            _, _, i = heapq.heappop(events)
            request = Request("model", systems[i], OUTPUTS, walker=walkers[i])
            request.n_pairs = PAIRS_PER_ATOM * request.n_atoms
            queue.extend([request], now)
            holding.note_requests([request], now)
    half = seconds / 2
    late = [latency for at, latency in latencies if at > half]
    waits = [wait for at, wait in held if at > half]
    first, last = min(at for at in answers if at > half), answers[-1]
    return Outcome(
        sum(at > first for at in answers), last - first, float(np.mean(late)), n_batches,
        sum(waits), max(waits),
    )  # fmt: skip
