"""What each model accepts: checked before a request may wait, so that no bad one ever does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from twinforce_models.neighbors.estimate import estimate_pairs
from twinforce_proto import (
    STRESSES,
    InvalidSystemError,
    ModelInfo,
    ServiceError,
    System,
    SystemTooLargeError,
    UnknownModelError,
    UnsupportedElementError,
    UnsupportedOutputError,
)
from twinforce_service.scheduling.request import Request, Walker, located

_N_ELEMENTS = 119
# Å; a walker that has not moved farther along any axis has about as many neighbor pairs as before.
_MAX_MOVE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class _Admitted:
    """What a walker asked when it was last looked at closely."""

    model: str
    outputs: frozenset[str]
    system: System
    n_pairs: int

    @classmethod
    def of(cls, request: Request[Any]) -> Self:
        """Return that of a request that has just been admitted."""
        return cls(request.model, request.outputs, request.system, request.n_pairs)

    def is_much_like(self, request: Request[Any]) -> bool:
        """Tell whether the same may be said of a request: only its atoms have moved a little."""
        ours, theirs = self.system, request.system
        return (
            request.model == self.model
            and request.outputs == self.outputs
            and theirs.atomic_numbers is ours.atomic_numbers
            and theirs.pbc is ours.pbc
            and theirs.charge == ours.charge
            and theirs.spin_multiplicity == ours.spin_multiplicity
            and has_hardly_moved(ours, theirs)
        )


def has_hardly_moved(before: System, now: System) -> bool:
    """Tell whether the atoms of a system have about as many neighbor pairs as before."""
    is_same = now.cell is before.cell
    return is_same and bool(np.abs(now.positions - before.positions).max() <= _MAX_MOVE)


class Admission:
    """Refuses what a model cannot evaluate, and says how much the rest adds to a batch.

    Args:
        models: What each declares, under its name.
        max_pairs: Neighbor pairs that one system may have.
    """

    def __init__(self, models: Mapping[str, ModelInfo], max_pairs: int) -> None:
        self._models = models
        self._max_pairs = max_pairs
        self._outputs = {name: frozenset(info.outputs) for name, info in models.items()}
        self._known = {name: _table(info.elements) for name, info in models.items()}
        self._admitted: WeakKeyDictionary[Walker, _Admitted] = WeakKeyDictionary()

    def admit(self, requests: Sequence[Request[Any]]) -> None:
        """Check every request and fill in its `n_pairs`.

        Raises:
            UnknownModelError: No such model is served.
            UnsupportedOutputError: The model has no such output, or not for this system.
            UnsupportedElementError: The model was not made for one of the elements.
            InvalidSystemError: The model would ignore the charge or the spin.
            SystemTooLargeError: The system has too many neighbor pairs.
        """
        for request in requests:
            walker = request.walker
            if walker is None:
                self._admit(request)
            elif (last := self._admitted.get(walker)) and last.is_much_like(request):
                request.n_pairs = request.n_pairs or last.n_pairs
            else:
                self._admit(request)
                self._admitted[walker] = _Admitted.of(request)

    def _admit(self, request: Request[Any]) -> None:
        info = self.find(request.model)
        self._check_outputs(info, request.outputs)
        if (error := self._objection(info, request)) is not None:
            raise located(error, request)
        request.n_pairs = request.n_pairs or estimate_pairs(request.system, info.cutoff)
        if request.n_pairs > self._max_pairs:
            raise located(self._too_crowded(request.n_pairs, info), request)

    def n_pairs(self, model: str, system: System) -> int:
        """Return about how many neighbor pairs a system has for a model that is served.

        Raises:
            SystemTooLargeError: They are too many.
        """
        info = self._models[model]
        n_pairs = estimate_pairs(system, info.cutoff)
        if n_pairs > self._max_pairs:
            raise self._too_crowded(n_pairs, info)
        return n_pairs

    def find(self, name: str) -> ModelInfo:
        """Return what a model declares.

        Raises:
            UnknownModelError: No such model is served.
        """
        if name not in self._models:
            raise UnknownModelError(
                f"model: no model is called {name!r}; served: {', '.join(sorted(self._models))}",
                field="model",
            )
        return self._models[name]

    def _check_outputs(self, info: ModelInfo, outputs: frozenset[str]) -> None:
        if missing := outputs - self._outputs[info.name]:
            raise UnsupportedOutputError(
                f"outputs: model {info.name!r} has no {_listed(missing)}; "
                f"it has {', '.join(info.outputs)}",
                field="outputs",
            )

    def _too_crowded(self, n_pairs: int, info: ModelInfo) -> SystemTooLargeError:
        return SystemTooLargeError(
            f"positions: expected at most {self._max_pairs} neighbor pairs within {info.cutoff:g} "
            f"Å, got about {n_pairs}; are coordinates and cell in Å?",
            field="positions",
        )

    def _objection(self, info: ModelInfo, request: Request[Any]) -> ServiceError | None:
        """Return what speaks against this system in particular."""
        system = request.system
        if not self._known[info.name][system.atomic_numbers].all():
            unknown = set(system.atomic_numbers.tolist()) - set(info.elements)
            return UnsupportedElementError(
                f"atomic_numbers: model {info.name!r} knows {_listed(info.elements)}, "
                f"got {_listed(unknown)}",
                field="atomic_numbers",
            )
        if not (STRESSES.isdisjoint(request.outputs) or system.pbc.all()):
            return UnsupportedOutputError(
                "pbc: a stress needs a system that is periodic in all three directions, got "
                f"{system.pbc.tolist()}",
                field="pbc",
            )
        return _ignored(info, system)


def _ignored(info: ModelInfo, system: System) -> InvalidSystemError | None:
    """Return what speaks against a charge or spin that would change nothing."""
    if system.charge and not info.uses_charge:
        field, expected, got = "charge", "none or 0", f"{system.charge:g}"
    elif system.spin_multiplicity not in (None, 1) and not info.uses_spin:
        field, expected, got = "spin_multiplicity", "none or 1", str(system.spin_multiplicity)
    else:
        return None
    text = f"{field}: expected {expected}, as model {info.name!r} does not use it, got {got}"
    return InvalidSystemError(text, field=field)


def _table(elements: Sequence[int]) -> NDArray[np.bool_]:
    table = np.zeros(_N_ELEMENTS, dtype=np.bool_)
    table[list(elements)] = True
    return table


def _listed(names: Iterable[int] | Iterable[str]) -> str:
    return ", ".join(str(name) for name in sorted(names))
