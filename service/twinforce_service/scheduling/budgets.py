"""Limits on the size of batches, by device memory and by time.

The time of a batch is learned. Its memory is measured at start, and the limit lowered when memory
runs out; it is modeled as fixed + a·atoms + b·pairs, for each model, with and without autograd. The
module uses no threads, no clock and no device.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twinforce_proto import SystemTooLargeError, needs_autograd
from twinforce_service.scheduling.costs import Costs
from twinforce_service.scheduling.request import JacobianRequest, Limits, Request

# Fraction used of the free memory, and of a load that turned out to be too large.
_HEADROOM = 0.8


@dataclass(frozen=True, slots=True)
class Budget:
    """Memory that batches and single systems may take, in any unit.

    Attributes:
        per_atom: Memory per atom.
        per_pair: Memory per neighbor pair.
        batch: Memory that a batch may take.
        alone: Memory that a single system may take; larger systems are refused.
    """

    per_atom: float
    per_pair: float
    batch: float
    alone: float

    def load(self, n_atoms: int, n_pairs: int) -> float:
        """Return the memory that a batch of this size takes."""
        return self.per_atom * n_atoms + self.per_pair * n_pairs


def fit_budget(samples: Sequence[tuple[int, int, int]], n_free: int) -> Budget | None:
    """Return the budget from a least-squares fit to measured batches.

    Args:
        samples: Atoms, pairs and bytes of each measured batch.
        n_free: Bytes that are free for a batch.

    Returns:
        None if there are too few samples.
    """
    if len(samples) < 3:
        return None
    sizes = np.array([(1.0, atoms, pairs) for atoms, pairs, _ in samples])
    n_bytes = np.array([each for _, _, each in samples], dtype=float)
    found, *_ = np.linalg.lstsq(sizes / n_bytes[:, None], np.ones(len(samples)), rcond=None)
    found = np.maximum(found, 0.0)
    predicted = sizes @ found
    if not predicted.all():
        return None
    fixed, per_atom, per_pair = (found * (n_bytes / predicted).max()).tolist()  # bounds all samples
    alone = max(n_free - fixed, 0.0)
    return Budget(per_atom, per_pair, _HEADROOM * alone, alone)


class Budgets:
    """Limits on the size of batches, by model.

    Args:
        limits: Upper bounds, whatever the memory.
    """

    def __init__(self, limits: Limits) -> None:
        self.costs = Costs(limits.max_batch_time)
        """Times of batches, to learn from each of them."""
        self._limits = limits
        self._budgets: dict[Hashable, Budget] = {}

    def set(self, model: str, budget: Budget, *, with_autograd: bool) -> None:
        """Use a budget for batches of a model that need autograd, or for the others."""
        self._budgets[model, with_autograd] = budget

    def get(self, model: str, *, with_autograd: bool) -> Budget | None:
        """Return the current budget, or None if only the limits apply."""
        return self._budgets.get((model, with_autograd))

    def fits(self, request: Request[Any], n_atoms: int, n_pairs: int) -> bool:
        """Return True if a batch with this request may have this many atoms and pairs."""
        limits = self._limits
        budget = self._budgets.get(_kind(request)) if self._budgets else None
        return (
            n_atoms <= limits.max_batch_atoms
            and n_pairs <= limits.max_batch_pairs
            and (budget is None or budget.load(n_atoms, n_pairs) <= budget.batch)
            and not self.costs.takes_too_long(request.group, n_atoms, n_pairs)
        )

    def check(self, requests: Sequence[Request[Any]]) -> None:
        """Refuse systems that do not fit even alone.

        Raises:
            SystemTooLargeError: A system does not fit into the memory of the device.
        """
        if not self._budgets:
            return
        for request in requests:
            budget = self._budgets.get(_kind(request))
            if budget is None:
                continue
            load = budget.load(request.n_atoms, request.n_pairs)
            if load >= budget.alone:
                most = int(request.n_atoms * budget.alone / load)
                expected = (
                    f"a system that fits into the memory of the device, less than about {most} "
                    "atoms as dense as these for these outputs"
                )
                error = SystemTooLargeError.expected("positions", expected, request.n_atoms)
                raise error.at(request.system_index)

    def note_out_of_memory(self, batch: Sequence[Request[Any]]) -> None:
        """Lower the budget below the load of a batch that ran out of memory."""
        kind = _kind(batch[0])
        if kind is None:
            return
        n_atoms = sum(request.n_atoms for request in batch)
        n_pairs = sum(request.n_pairs for request in batch)
        budget = self._budgets.get(kind)
        if budget is None:
            inf = float("inf")
            budget = Budget(0.5 / n_atoms, 0.5 / max(n_pairs, 1), inf, inf)
        load = budget.load(n_atoms, n_pairs)
        budget = replace(budget, batch=min(budget.batch, _HEADROOM * load))
        if len(batch) == 1:
            budget = replace(budget, alone=min(budget.alone, load))
        self._budgets[kind] = budget


def _kind(request: Request[Any]) -> Hashable:
    """Return the key of the budget for a request; None for rows of a Jacobian."""
    if isinstance(request, JacobianRequest):
        return None
    return request.model, needs_autograd(request.outputs)
