"""The choice of a replica for a new walker or a single call, without I/O.

Of two random replicas, the less loaded one is chosen: unlike the least loaded of all, it is not
chosen by all clients at the same time (Mitzenmacher, "The power of two choices in randomized load
balancing", 2001).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# Age in s up to which a load is used.
_LONGEST_AGE_S = 10.0
# Ratio of the load of another replica to that of its own below which a walker moves.
_MOVE_RATIO = 0.7


@dataclass(slots=True)
class Load:
    """The load that a replica has reported.

    Attributes:
        n_atoms: Number of atoms that waited or were in the batch of the reply.
        atoms_per_system: Mean number of atoms of the systems in that batch.
        reported_at: Time of the report, in s.
        n_placed: Number of walkers and calls that were sent there since.
    """

    n_atoms: float
    atoms_per_system: float
    reported_at: float
    n_placed: int = 0

    def at(self, now: float) -> float | None:
        """Return the number of atoms to expect; None if the report is too old."""
        if now - self.reported_at > _LONGEST_AGE_S:
            return None
        return self.n_atoms + self.n_placed * self.atoms_per_system


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a replica as the choice sees it.

    Attributes:
        n_own: Number of walkers and open calls of this client there.
        load: Number of atoms, of all clients; None if it is not known.
    """

    n_own: int
    load: float | None


def choose(standings: Sequence[Standing], generator: random.Random) -> int:
    """Return the index of the replica for a new walker or a single call.

    While the loads of some are not known, only those with the fewest walkers of this client take
    part, so that it spreads its own walkers evenly and gets to know all replicas.

    Args:
        standings: State of each replica that answers; at least one.
        generator: Source of random numbers.
    """
    candidates = list(range(len(standings)))
    if any(each.load is None for each in standings):
        fewest = min(each.n_own for each in standings)
        candidates = [i for i in candidates if standings[i].n_own == fewest]
    pair = generator.sample(candidates, min(2, len(candidates)))
    loads = [standings[i].load for i in pair]
    if None in loads:
        return pair[0]
    return min(pair, key=lambda i: (standings[i].load, standings[i].n_own))


def is_worth_a_move(own: float, other: float) -> bool:
    """Return True if a walker should move.

    The margin keeps walkers where they are if loads differ by chance, as they do from batch to
    batch.

    Args:
        own: Load of its replica, in atoms, itself included.
        other: Load of another replica after a step there, itself included.
    """
    return other < _MOVE_RATIO * own
