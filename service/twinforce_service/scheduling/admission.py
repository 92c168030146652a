"""Check requests before they enter the queue, and count their neighbor pairs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from twinforce_models.neighbors.estimate import estimate_pairs
from twinforce_proto import ModelInfo, System, SystemTooLargeError, UnknownModelError
from twinforce_proto.errors import quoted
from twinforce_proto.model_info import Support
from twinforce_service.scheduling.request import Request, Walker

# Å; if no coordinate has changed by more, the number of neighbor pairs is about the same.
_MAX_MOVE = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class _Admitted:
    """The last request of a walker that was checked in full."""

    model: str
    outputs: frozenset[str]
    system: System
    n_pairs: int

    @classmethod
    def of(cls, request: Request[Any]) -> Self:
        """Return the record of a request that has just been admitted."""
        return cls(request.model, request.outputs, request.system, request.n_pairs)

    def covers(self, request: Request[Any]) -> bool:
        """Return True if the request differs only in atoms that have moved a little."""
        before, now = self.system, request.system
        return (
            request.model == self.model
            and request.outputs == self.outputs
            and now.atomic_numbers is before.atomic_numbers
            and now.pbc is before.pbc
            and now.charge == before.charge
            and now.spin_multiplicity == before.spin_multiplicity
            and has_hardly_moved(before, now)
        )


def has_hardly_moved(before: System, now: System) -> bool:
    """Return True if the atoms have about as many neighbor pairs as before."""
    if now.cell is not before.cell:
        return False
    moved = now.positions - before.positions
    # The sum of squares, which bounds them all, takes a third of the time.
    return bool(np.vdot(moved, moved) <= _MAX_MOVE**2 or np.abs(moved).max() <= _MAX_MOVE)


class Admission:
    """Refuses requests that a model cannot evaluate, and counts the pairs of the others.

    Args:
        models: Capabilities of each served model, by name.
        max_pairs: Number of neighbor pairs that one system may have.
    """

    def __init__(self, models: Mapping[str, ModelInfo], max_pairs: int) -> None:
        self._models = models
        self._max_pairs = max_pairs
        self._support = {name: Support.of(info) for name, info in models.items()}
        self._admitted: WeakKeyDictionary[Walker, _Admitted] = WeakKeyDictionary()

    def admit(self, requests: Sequence[Request[Any]]) -> None:
        """Check every request and set its `n_pairs`.

        A walker whose atoms have moved only a little since its last full check is admitted
        without another one.

        Raises:
            UnknownModelError: No model of this name is served.
            UnsupportedOutputError: The model, or this system, lacks an output.
            UnsupportedElementError: The model does not support an element of the system.
            InvalidSystemError: The model would ignore the charge or the spin.
            SystemTooLargeError: The system has too many neighbor pairs.
        """
        for request in requests:
            walker = request.walker
            if walker is None:
                self._check(request)
            elif (last := self._admitted.get(walker)) and last.covers(request):
                request.n_pairs = request.n_pairs or last.n_pairs
            else:
                self._check(request)
                self._admitted[walker] = _Admitted.of(request)

    def _check(self, request: Request[Any]) -> None:
        info = self.find(request.model)
        support = self._support[request.model]
        support.check_outputs(request.outputs)
        if (reason := support.reason_to_refuse(request.system, request.outputs)) is not None:
            raise reason.at(request.system_index)
        request.n_pairs = request.n_pairs or estimate_pairs(request.system, info.cutoff)
        if request.n_pairs > self._max_pairs:
            raise self._too_many_pairs(request.n_pairs, info).at(request.system_index)

    def n_pairs(self, model: str, system: System) -> int:
        """Return about how many neighbor pairs a system has for a served model.

        Raises:
            SystemTooLargeError: The system has too many neighbor pairs.
        """
        info = self._models[model]
        n_pairs = estimate_pairs(system, info.cutoff)
        if n_pairs > self._max_pairs:
            raise self._too_many_pairs(n_pairs, info)
        return n_pairs

    def find(self, name: str) -> ModelInfo:
        """Return the capabilities of a model.

        Raises:
            UnknownModelError: No model of this name is served.
        """
        if name not in self._models:
            raise unknown_model(name, self._models)
        return self._models[name]

    def _too_many_pairs(self, n_pairs: int, info: ModelInfo) -> SystemTooLargeError:
        expected = f"at most {self._max_pairs} neighbor pairs within {info.cutoff:g} Å"
        got = f"about {n_pairs}; are coordinates and cell in Å?"
        return SystemTooLargeError.expected("positions", expected, got)


def unknown_model(name: str, served: Iterable[str]) -> UnknownModelError:
    """Return the error for requests of a model that is not served."""
    text = f"model: no model is called {quoted(name)}; served: {', '.join(sorted(served))}"
    return UnknownModelError(text, field="model")
