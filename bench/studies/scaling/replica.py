"""One replica, step by step: what its metrics say under more and more walkers."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from bench.studies.scaling.events import Events
from bench.studies.scaling.parameters import Parameters


@dataclass(frozen=True)
class Reading:
    """The mean of the metrics of a replica.

    Attributes:
        n_walkers: Number of walkers.
        n_atoms: Number of their atoms.
        utilization: Part of the time in which the device computes.
        queue_atoms: Atoms that wait for the device.
        step_s: Time of a step, in s.
        steps_per_s: Steps of all walkers, per second.
    """

    n_walkers: int
    n_atoms: float
    utilization: float
    queue_atoms: float
    step_s: float
    steps_per_s: float


class BatchingReplica:
    """A service process and a device, which batches all that waits when it becomes free."""

    def __init__(self, events: Events, parameters: Parameters) -> None:
        self._events, self._parameters = events, parameters
        self._waiting: deque[SteppingWalker] = deque()
        self._service_free_at = 0.0
        self._is_busy = False
        self._counted_at = 0.0
        self.queue_atoms = 0.0
        self.busy_s = self.queue_atom_s = 0.0

    def receive(self, walker: "SteppingWalker") -> None:
        """Take the step of a walker, once the service process has decoded it."""
        begins = max(self._events.now, self._service_free_at)
        self._service_free_at = begins + self._parameters.per_step_s
        self._events.at(self._service_free_at, lambda: self._enqueue(walker))

    def _enqueue(self, walker: "SteppingWalker") -> None:
        self._count()
        self._waiting.append(walker)
        self.queue_atoms += walker.n_atoms
        if not self._is_busy:
            self._begin()

    def _begin(self) -> None:
        self._count()
        batch, n_atoms = [], 0.0
        limit = self._parameters.max_batch_atoms
        while self._waiting and (not batch or n_atoms + self._waiting[0].n_atoms <= limit):
            walker = self._waiting.popleft()
            batch.append(walker)
            n_atoms += walker.n_atoms
        self.queue_atoms -= n_atoms
        self._is_busy = bool(batch)
        if batch:
            seconds = self._parameters.fixed_s + self._parameters.per_atom_s * n_atoms
            self.busy_s += seconds
            self._events.after(seconds, lambda: self._finish(batch))

    def _finish(self, batch: "list[SteppingWalker]") -> None:
        for walker in batch:
            walker.take_reply()
        self._begin()

    def _count(self) -> None:
        self.queue_atom_s += self.queue_atoms * (self._events.now - self._counted_at)
        self._counted_at = self._events.now


class SteppingWalker:
    """A client whose next step follows from the reply to the last one."""

    def __init__(
        self,
        events: Events,
        replica: BatchingReplica,
        n_atoms: float,
        client_s: float,
        begins: float,
    ) -> None:
        self._events, self._replica = events, replica
        self.n_atoms, self._client_s = n_atoms, client_s
        self.n_steps = 0
        events.at(begins, self._send)

    def _send(self) -> None:
        self._replica.receive(self)

    def take_reply(self) -> None:
        """Take a reply, and send the next step after a while."""
        self.n_steps += 1
        self._events.after(self._client_s, self._send)


def read_metrics(parameters: Parameters, n_walkers: int, seconds: float, seed: int) -> Reading:
    """Simulate a replica with so many walkers and return its metrics."""
    random = np.random.default_rng(seed)
    events = Events()
    replica = BatchingReplica(events, parameters)
    atoms = parameters.atoms(random, n_walkers)
    think = parameters.client_s * np.exp(0.5 * random.standard_normal(n_walkers))
    begins = random.uniform(0.0, 0.1, n_walkers)
    walkers = [
        SteppingWalker(events, replica, *each) for each in zip(atoms, think, begins, strict=True)
    ]
    events.run(seconds)
    n_steps = sum(each.n_steps for each in walkers)
    return Reading(
        n_walkers,
        float(atoms.sum()),
        min(replica.busy_s / seconds, 1.0),  # the last batch ends later
        replica.queue_atom_s / seconds,
        n_walkers * seconds / n_steps,
        n_steps / seconds,
    )
