"""Multiple time stepping: direct forces at every step, corrected at the end of every outer step.

    p += M dt/2 (f_c - f_d);   M times velocity Verlet of dt with f_d;   p += M dt/2 (f_c - f_d)

    f_c -> conservative_forces,  f_d -> direct_forces,  dt -> time_step,  M -> inner_steps

This is reversible RESPA (Tuckerman, Berne, Martyna, J. Chem. Phys. 97, 1990 (1992)) with the
split of Bigi, Langer and Ceriotti (arXiv:2412.11569). The functions take and return states, in any
consistent units, such as eV, Å, amu and ASE's unit of time.

`respa_steps` and `verlet_steps` are generators that yield the evaluations they need and are sent
the predictions, so that the caller decides how to wait for them; `respa_step` and `verlet_step`
evaluate with functions instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from twinforce_dynamics.steps import (
    Floats,
    ForceFunction,
    Kind,
    NeededEvaluation,
    State,
    Steps,
    complete,
    volume,
)
from twinforce_proto import Prediction

# The action of a thermostat or barostat in the middle of an inner step. It takes the state and the
# stress, or None, and returns the new state and the strain of the cell, or None.
Middle = Callable[[State, Floats | None], tuple[State, Floats | None]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mechanics:
    """The parameters that determine how atoms move between evaluations.

    Attributes:
        masses: Shape [n_atoms, 1].
        time_step: Length dt of an inner step.
        mobile: 1 for atoms that move and 0 for fixed ones, shape [n_atoms, 1]. None: all move.
        middle: Action of the thermostat or barostat in the middle of an inner step, if any.
    """

    masses: Floats
    time_step: float
    mobile: Floats | None = None
    middle: Middle | None = None


def respa_step(
    state: State,
    direct: ForceFunction,
    hybrid: ForceFunction,
    mechanics: Mechanics,
    inner_steps: int,
) -> State:
    """Take one outer step: M inner ones, from M - 1 direct evaluations and one of both forces.

    With M = 1 this is velocity Verlet with conservative forces.

    Args:
        state: State with a prediction of both forces, and of both stresses if the cell moves.
        direct: Function that evaluates the direct forces (and stress) alone.
        hybrid: Function that evaluates the energy and both forces (and stresses) together.
        mechanics: Masses, inner time step and thermostat or barostat.
        inner_steps: Number M of inner steps.
    """
    return complete(respa_steps(state, mechanics, inner_steps), direct, hybrid)


def verlet_step(state: State, evaluate: ForceFunction, mechanics: Mechanics, kind: Kind) -> State:
    """Take one step of velocity Verlet with forces of one kind, from one evaluation."""
    return complete(verlet_steps(state, mechanics, kind), evaluate, evaluate)


def respa_steps(state: State, mechanics: Mechanics, inner_steps: int) -> Steps[State]:
    """Yield the evaluations of one outer step with M inner steps; see `respa_step`."""
    duration = inner_steps * mechanics.time_step
    start = state.prediction
    gradient_before = _correction_gradient(state)
    correction_stress = _difference(start.conservative_stress, start.direct_stress)
    impulse = _correction_impulse(start, mechanics, duration / 2)
    state = _kick(state, impulse, mechanics.masses)
    total_strain = np.zeros((3, 3))
    for n_left in reversed(range(inner_steps)):
        # The impulse is applied at the start, but its force acts throughout the outer step.
        ahead = (2 * n_left + 1 - inner_steps) / inner_steps
        excess = ahead * impulse if mechanics.middle else None
        state, strain = yield from _inner_step(
            state, mechanics, "direct", correction_stress, excess, is_outer=n_left == 0
        )
        if strain is not None:
            total_strain += strain
    impulse = _correction_impulse(state.prediction, mechanics, duration / 2)
    state = _kick(state, impulse, mechanics.masses)
    if gradient_before is None:
        return state
    return _with_strain_work(state, gradient_before, _correction_gradient(state), total_strain)


def verlet_steps(state: State, mechanics: Mechanics, kind: Kind) -> Steps[State]:
    """Yield the only evaluation of one step of velocity Verlet with forces of one kind."""
    state, _ = yield from _inner_step(state, mechanics, kind)
    return state


def _inner_step(
    state: State,
    mechanics: Mechanics,
    kind: Kind,
    correction_stress: Floats | None = None,
    excess: Floats | None = None,
    *,
    is_outer: bool = True,
) -> Steps[tuple[State, Floats | None]]:
    """Take one step of velocity Verlet; return the new state and the strain of the cell, or None.

    Args:
        state: State with a prediction of this kind.
        mechanics: Masses, time step and thermostat or barostat.
        kind: Kind of forces and stress.
        correction_stress: Stress that the correction adds.
        excess: The part of the impulse of the correction that is ahead of its force in the middle
            of this step. The thermostat and the barostat must not count it as momentum.
        is_outer: True if this step is the last one of an outer step.
    """
    half = mechanics.time_step / 2
    stress = _stress(state.prediction, kind)
    gradient = None if stress is None else volume(state.cell) * stress
    momenta = state.momenta + _impulse(_forces(state.prediction, kind), mechanics, half)
    strain = None
    if mechanics.middle is None:
        positions = state.positions + mechanics.time_step * (momenta / mechanics.masses)
        moved = replace(state, positions=positions, momenta=momenta)
    else:
        positions = state.positions + half * (momenta / mechanics.masses)
        moved = replace(state, positions=positions, momenta=momenta)
        total = stress
        if stress is not None and correction_stress is not None:
            total = stress + correction_stress
        moved, strain = mechanics.middle(moved, total)
        if excess is not None:
            moved = _without_excess_work(moved, excess, moved.momenta - momenta, mechanics.masses)
        positions = moved.positions + half * (moved.momenta / mechanics.masses)
    prediction = yield NeededEvaluation(positions, moved.cell, is_outer)
    momenta = moved.momenta + _impulse(_forces(prediction, kind), mechanics, half)
    moved = replace(moved, positions=positions, momenta=momenta, prediction=prediction)
    if strain is not None and gradient is not None:
        after = volume(moved.cell) * _required(_stress(prediction, kind), f"{kind}_stress")
        moved = _with_strain_work(moved, gradient, after, strain)
    return moved, strain


def _correction_impulse(prediction: Prediction, mechanics: Mechanics, duration: float) -> Floats:
    """Return the impulse of (conservative - direct) forces."""
    forces = _forces(prediction, "conservative") - _forces(prediction, "direct")
    return _impulse(forces, mechanics, duration)


def _kick(state: State, impulse: Floats, masses: Floats) -> State:
    """Apply an impulse of the correction, and count its work."""
    work = float(np.vdot(state.momenta + 0.5 * impulse, impulse / masses))
    return replace(
        state,
        momenta=state.momenta + impulse,
        correction_work=state.correction_work + work,
    )


def _without_excess_work(state: State, excess: Floats, change: Floats, masses: Floats) -> State:
    """Subtract the work of a change of momenta on the excess impulse from the supplied energy."""
    work = float(np.vdot(excess / masses, change))
    return replace(state, supplied=state.supplied - work)


def _impulse(forces: Floats, mechanics: Mechanics, duration: float) -> Floats:
    impulse = duration * forces
    return impulse if mechanics.mobile is None else impulse * mechanics.mobile


def _with_strain_work(state: State, before: Floats, after: Floats | None, strain: Floats) -> State:
    """Add the work of a strain to the supplied energy: the change of the energy, to second order.

    ΔE = Σ 1/2 (G + G') ε        G = dE/dε = V σ -> before,  G' -> after,  ε -> strain
    """
    mean = before if after is None else 0.5 * (before + after)
    return replace(state, supplied=state.supplied + float(np.vdot(mean, strain)))


def _correction_gradient(state: State) -> Floats | None:
    """Return V (conservative - direct stress), in eV, or None if there is no stress."""
    prediction = state.prediction
    difference = _difference(prediction.conservative_stress, prediction.direct_stress)
    return None if difference is None else volume(state.cell) * difference


def _difference(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else first - second


def _forces(prediction: Prediction, kind: Kind) -> Floats:
    return _required(getattr(prediction, f"{kind}_forces"), f"{kind}_forces")


def _stress(prediction: Prediction, kind: Kind) -> Floats | None:
    stress: Floats | None = getattr(prediction, f"{kind}_stress")
    return stress


def _required(values: Floats | None, output: str) -> Floats:
    if values is None:
        raise ValueError(f"{output}: expected values in the prediction, got none")
    return values
