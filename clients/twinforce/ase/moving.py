"""Atoms that dynamics move, and their state, which is renewed if the atoms were changed."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from ase import Atoms

from twinforce.ase.preparation import Preparation
from twinforce.ase.results import outputs_in
from twinforce.ase.sources import ForceSource
from twinforce_dynamics.disagreement import Disagreement, disagreement_of, exceeded
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import State, Steps, complete
from twinforce_proto import ModelChangedError

_T = TypeVar("_T")


class MovingAtoms:
    """Atoms that steps move, and the state from which the next step begins.

    Whatever a step depends on is compared with the atoms before it is used: the atoms may be
    changed between steps. What was evaluated stays in use as long as it is that of the atoms.

    Args:
        atoms: Atoms with a calculator.
        integrator: Time step, forces and ensemble; may be replaced between steps.
        rng: Generator of all random numbers; may be replaced between steps.

    Attributes:
        preparation: Preparation of the steps, for the atoms as they were last.
        state: State after the last step or evaluation; None before the first.
        disagreement: Disagreement of both forces in this state; None unless forces are hybrid.
    """

    def __init__(self, atoms: Atoms, integrator: Integrator, rng: np.random.Generator) -> None:
        self.atoms = atoms
        self.integrator = integrator
        self.rng = rng
        self.state: State | None = None
        self.disagreement: Disagreement | None = None
        self.preparation = Preparation.of(atoms, integrator, rng)
        self._evaluated_by: ForceSource | None = None
        self._has_warned = False

    @property
    def allows_model_change(self) -> bool:
        """True if other weights of the model are allowed, which their calculator decides."""
        return bool(getattr(self.atoms.calc, "allow_model_change", False))

    def prepared(self) -> Preparation:
        """Return the preparation for the atoms as they are now.

        Raises:
            ValueError: The atoms were changed so that they cannot be moved.
            UnsupportedOutputError: Their calculator lacks outputs that the steps need.
        """
        before = self.preparation
        if not before.is_for(self.atoms, self.integrator, self.rng):
            self.preparation = Preparation.of(self.atoms, self.integrator, self.rng, before)
            if self.preparation.source is not before.source:
                self._has_warned = False
                _remove_labels(self.atoms, before.species.symbols)
        return self.preparation

    def current(self) -> State:
        """Return the state of the atoms as they are; evaluate them if that is not known."""
        return self._again_if_allowed(self._current)

    def step(self) -> None:
        """Take one outer step.

        Raises:
            RuntimeError: Something changed the atoms in the middle of the step, which is undone.
        """
        self._again_if_allowed(self._step)

    def set(self, state: State, work_before: float) -> State:
        """Move the atoms to a state, with the results of their calculator and the disagreement.

        Args:
            state: State evaluated for these atoms.
            work_before: Work of the correction up to the previous outer step, in eV.
        """
        self.set_coordinates(state)
        self._evaluated_by = self.preparation.source
        if self.integrator.force_kind == "hybrid":
            self.disagreement = disagreement_of(self.preparation.species, state, work_before)
            self.atoms.info.update(_labels_of(self.disagreement))
        self.preparation.source.adopt(self.atoms, state.prediction)
        return state

    def set_coordinates(self, state: State) -> None:
        """Move the atoms to a state whose prediction is not theirs, so that it is not used."""
        self.state = state
        self._evaluated_by = None
        self.atoms.positions = state.positions
        self.atoms.set_array("momenta", state.momenta, float, (3,))
        self.atoms.cell[:] = state.cell

    def is_in(self, state: State | None) -> bool:
        """Return True if nothing was changed since the atoms were moved to this state."""
        return (
            state is not None
            and self.preparation.is_for(self.atoms, self.integrator, self.rng)
            and self._holds(state)
            and np.array_equal(self.preparation.momenta_of(self.atoms), state.momenta)
        )

    def excess(self) -> str | None:
        """Describe a disagreement beyond that in the tests of the model, once per model."""
        if self._has_warned or self.disagreement is None:
            return None
        text = exceeded(self.disagreement, self.preparation.source.metadata)
        self._has_warned = text is not None
        return text

    def _current(self) -> State:
        momenta = self.prepared().momenta_of(self.atoms)
        if self.state is not None and self._holds(self.state):
            self.state = replace(self.state, momenta=momenta)
            return self.state
        positions, cell = self.atoms.positions.copy(), self.atoms.cell.array.copy()
        state = self._completed(self.preparation.stepper.start(positions, momenta, cell))
        before = state if self.state is None else self.state
        work = before.correction_work
        return self.set(replace(state, supplied=before.supplied, correction_work=work), work)

    def _step(self) -> None:
        before = self.current()
        after = self._completed(self.preparation.stepper.step(before))
        if not self.is_in(before):
            raise RuntimeError(
                "atoms: expected no change in the middle of a step, got one; the step is undone: "
                "change atoms between steps, for example in an observer"
            )
        self.set(after, before.correction_work)

    def _completed(self, steps: Steps[State]) -> State:
        """Return the state after these steps, with their evaluations made."""
        return complete(steps, self.preparation.inner, self.preparation.outer)

    def _holds(self, state: State) -> bool:
        """Return True if the state has what a step from the present coordinates needs."""
        return (
            self._evaluated_by is self.preparation.source
            and np.array_equal(self.atoms.positions, state.positions)
            and np.array_equal(self.atoms.cell.array, state.cell)
            and self.preparation.outputs <= outputs_in(state.prediction)
        )

    def _again_if_allowed(self, act: Callable[[], _T]) -> _T:
        """Act; once more, with all evaluated anew, if the service came to have other weights."""
        try:
            return act()
        except ModelChangedError:
            if not self.allows_model_change:
                raise
            return act()


def _labels_of(disagreement: Disagreement) -> dict[str, float]:
    """Return the entries for `atoms.info`, which ASE writes into trajectories."""
    species = {f"force_rmse_{name}": rmse for name, rmse in disagreement.species_rmse.items()}
    return species | {
        "force_rmse": disagreement.rmse,
        "correction_work": disagreement.total_work,
    }


def _remove_labels(atoms: Atoms, symbols: tuple[str, ...]) -> None:
    """Remove the entries of `atoms.info` for species that may be there no longer."""
    for symbol in symbols:
        atoms.info.pop(f"force_rmse_{symbol}", None)
