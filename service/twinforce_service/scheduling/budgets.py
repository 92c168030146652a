"""How much fits into the memory of a device: measured at start, lowered when it was too much.

What a batch takes is fixed + a·atoms + b·pairs, for each model, with and without autograd. No
threads, no clock, no device.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twinforce_proto import SystemTooLargeError, needs_autograd
from twinforce_service.scheduling.request import JacobianRequest, Limits, Request, located

# Of the memory that is free, and of what turned out to be too much.
_HEADROOM = 0.8


@dataclass(frozen=True, slots=True)
class Budget:
    """What batches may take, and systems alone.

    Attributes:
        per_atom: In any unit that the others share.
        per_pair: For a neighbor pair.
        batch: What a batch may take.
        alone: What a system alone may take; beyond, it is not tried.
    """

    per_atom: float
    per_pair: float
    batch: float
    alone: float

    def load(self, n_atoms: int, n_pairs: int) -> float:
        """Return what so much takes."""
        return self.per_atom * n_atoms + self.per_pair * n_pairs


def measured(samples: Sequence[tuple[int, int, int]], n_free: int) -> Budget | None:
    """Return what batches may take.

    Args:
        samples: Atoms, pairs and bytes of batches that were tried.
        n_free: Bytes that there are for a batch.

    Returns:
        None where too little was tried to tell.
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
    fixed, per_atom, per_pair = (found * (n_bytes / predicted).max()).tolist()  # none falls short
    alone = max(n_free - fixed, 0.0)
    return Budget(per_atom, per_pair, _HEADROOM * alone, alone)


class Budgets:
    """How much of what goes into a batch.

    Args:
        limits: Never more than these.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._budgets: dict[Hashable, Budget] = {}

    def set(self, model: str, budget: Budget, *, with_autograd: bool) -> None:
        """Use a budget for batches of a model that need autograd, or for the others."""
        self._budgets[model, with_autograd] = budget

    def get(self, model: str, *, with_autograd: bool) -> Budget | None:
        """Return the present budget, if there is any besides the limits."""
        return self._budgets.get((model, with_autograd))

    def fits(self, request: Request[Any], n_atoms: int, n_pairs: int) -> bool:
        """Tell whether a batch with this request may have so many atoms and pairs."""
        limits, budget = self._limits, self._budgets.get(_kind(request))
        return (
            n_atoms <= limits.max_batch_atoms
            and n_pairs <= limits.max_batch_pairs
            and (budget is None or budget.load(n_atoms, n_pairs) <= budget.batch)
        )

    def check(self, requests: Sequence[Request[Any]]) -> None:
        """Refuse what does not fit even alone.

        Raises:
            SystemTooLargeError: One of the systems does not.
        """
        for request in requests:
            budget = self._budgets.get(_kind(request))
            if budget is None:
                continue
            load = budget.load(request.n_atoms, request.n_pairs)
            if load >= budget.alone:
                most = int(request.n_atoms * budget.alone / load)
                raise located(
                    SystemTooLargeError(
                        "positions: expected what fits into the memory of the device, less than "
                        f"about {most} atoms as dense as these for these outputs, got "
                        f"{request.n_atoms}",
                        field="positions",
                    ),
                    request,
                )

    def note_out_of_memory(self, batch: Sequence[Request[Any]]) -> None:
        """Learn that these requests were too much together."""
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
    """Return what requests have in common that take as much; None for rows of a Jacobian."""
    if isinstance(request, JacobianRequest):
        return None
    return request.model, needs_autograd(request.outputs)
