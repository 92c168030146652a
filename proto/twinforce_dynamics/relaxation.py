"""Relaxation by FIRE: hybrid runs start with direct forces and finish with conservative ones.

    P = F·v;   v -> (1 - α) v + α |v| F/|F| while P > 0, else 0;   v += dt F;   r += dt v

FIRE (Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201 (2006)) with unit
masses and the parameters of that paper; steps are no longer than 0.2 Å. The cell is fixed.
"""

from dataclasses import dataclass, replace

import numpy as np

from twinforce_dynamics.requests import RelaxRequest
from twinforce_dynamics.steps import Floats, Kind, NeededEvaluation, Steps
from twinforce_proto import Prediction, Provenance

# Outputs to request for steps with each kind of forces.
OUTPUTS_OF: dict[Kind, frozenset[str]] = {
    "direct": frozenset({"energy", "direct_forces"}),
    "conservative": frozenset({"energy", "conservative_forces"}),
}
# A hybrid relaxation switches to conservative forces once the largest direct force is below this
# multiple of fmax, or has not decreased for this number of steps.
_SWITCH = 4.0
_PATIENCE = 40

_FIRST_STEP, _LONGEST_STEP, _GROWTH, _SHRINKAGE = 0.1, 1.0, 1.1, 0.5
_FIRST_MIXING, _MIXING_DECAY, _DELAY = 0.1, 0.99, 5
_MAX_MOVE = 0.2


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Relaxed:
    """The progress of a relaxation.

    Attributes:
        step: Number of steps taken.
        positions: Shape [n_atoms, 3], in Å.
        energy: Potential energy, in eV.
        largest_force: Largest force on a mobile atom, in eV/Å, of the kind in `driven_by`.
        driven_by: Forces that currently drive the relaxation, "direct" or "conservative".
        is_converged: True if the largest force is at most fmax, for the kind of forces that the
            relaxation ends with.
        is_last: True if the relaxation ends here: it has converged or taken `max_steps` steps.
        provenance: Origin of the prediction.
    """

    step: int
    positions: Floats
    energy: float
    largest_force: float
    driven_by: Kind
    is_converged: bool
    is_last: bool = True
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RelaxationState:
    """The state of a relaxation: everything that the next step needs.

    Attributes:
        positions: Shape [n_atoms, 3], in Å.
        prediction: Prediction for these positions, with forces of the kind in `driven_by`.
        driven_by: Kind of forces that drive the relaxation.
        velocities: Velocities of FIRE, shape [n_atoms, 3].
        time_step: Time step of FIRE.
        mixing: α.
        n_downhill: Number of steps since P was last not positive.
        smallest_force: Smallest value that the largest force of this kind has had, in eV/Å.
        n_stale: Number of steps since then.
    """

    positions: Floats
    prediction: Prediction
    driven_by: Kind
    velocities: Floats
    time_step: float = _FIRST_STEP
    mixing: float = _FIRST_MIXING
    n_downhill: int = 0
    smallest_force: float = float("inf")
    n_stale: int = 0


class Relaxation:
    """The steps of one relaxation.

    Args:
        request: System to relax, and when to stop.
    """

    def __init__(self, request: RelaxRequest) -> None:
        self._request = request
        self._cell = request.system.cell
        self._first_kind: Kind = (
            "conservative" if request.force_kind == "conservative" else "direct"
        )
        self._last_kind: Kind = "direct" if request.force_kind == "direct" else "conservative"
        self._mobile = np.ones((len(request.system), 1))
        self._mobile[request.fixed_atoms] = 0.0

    def begin(self) -> Steps[RelaxationState]:
        """Yield the evaluation of the initial positions; return the initial state."""
        return self._at_rest(self._request.system.positions, self._first_kind)

    def step(self, state: RelaxationState) -> Steps[RelaxationState]:
        """Yield the evaluation of one step: a move, or the switch to conservative forces."""
        if state.driven_by != self._last_kind and self._should_switch(state):
            return (yield from self._at_rest(state.positions, self._last_kind))
        moved = _accelerated(state, self._forces(state))
        change = moved.time_step * moved.velocities
        length = float(np.linalg.norm(change))
        if length > _MAX_MOVE:
            change *= _MAX_MOVE / length
        positions = state.positions + change
        prediction = yield self._evaluation(positions, state.driven_by)
        return self._with_progress(replace(moved, positions=positions, prediction=prediction))

    def is_converged(self, state: RelaxationState) -> bool:
        """Return True if the kind of forces to end with drives and none of them is too large."""
        is_last = state.driven_by == self._last_kind
        return is_last and self._largest_force(state) <= self._request.fmax

    def report(self, state: RelaxationState, step: int) -> Relaxed:
        """Return the progress at this state, after this number of steps."""
        is_converged = self.is_converged(state)
        return Relaxed(
            step=step,
            positions=state.positions,
            energy=state.prediction.energy or 0.0,
            largest_force=self._largest_force(state),
            driven_by=state.driven_by,
            is_converged=is_converged,
            is_last=is_converged or step >= self._request.max_steps,
            provenance=state.prediction.provenance,
        )

    def _at_rest(self, positions: Floats, kind: Kind) -> Steps[RelaxationState]:
        """Yield the evaluation of these positions; return the state with velocities of zero."""
        prediction = yield self._evaluation(positions, kind)
        state = RelaxationState(
            positions=positions,
            prediction=prediction,
            driven_by=kind,
            velocities=np.zeros_like(positions),
        )
        return self._with_progress(state)

    def _evaluation(self, positions: Floats, kind: Kind) -> NeededEvaluation:
        return NeededEvaluation(positions, self._cell, is_outer=kind == "conservative")

    def _should_switch(self, state: RelaxationState) -> bool:
        is_close = state.smallest_force <= _SWITCH * self._request.fmax
        return is_close or state.n_stale >= _PATIENCE

    def _with_progress(self, state: RelaxationState) -> RelaxationState:
        largest = self._largest_force(state)
        if largest < state.smallest_force:
            return replace(state, smallest_force=largest, n_stale=0)
        return replace(state, n_stale=state.n_stale + 1)

    def _forces(self, state: RelaxationState) -> Floats:
        """Return the forces that drive; those on fixed atoms are zero."""
        forces: Floats = getattr(state.prediction, f"{state.driven_by}_forces") * self._mobile
        return forces

    def _largest_force(self, state: RelaxationState) -> float:
        return float(np.linalg.norm(self._forces(state), axis=1).max())


def _accelerated(state: RelaxationState, forces: Floats) -> RelaxationState:
    """Return the state with the next velocities, time step and mixing of FIRE."""
    velocities = state.velocities
    mixing, time_step, n_downhill = _FIRST_MIXING, state.time_step, 0
    if velocities.any():
        if float(np.vdot(forces, velocities)) > 0.0:
            mixing, n_downhill = state.mixing, state.n_downhill + 1
            speed, size = float(np.linalg.norm(velocities)), float(np.linalg.norm(forces))
            velocities = (1.0 - mixing) * velocities + mixing * speed / size * forces
            if n_downhill > _DELAY:
                time_step = min(_GROWTH * time_step, _LONGEST_STEP)
                mixing *= _MIXING_DECAY
        else:
            velocities = np.zeros_like(velocities)
            time_step *= _SHRINKAGE
    return replace(
        state,
        velocities=velocities + time_step * forces,
        time_step=time_step,
        mixing=mixing,
        n_downhill=n_downhill,
    )
