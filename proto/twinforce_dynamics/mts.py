"""Multiple time stepping: cheap direct forces at every step, the right ones where they count.

    p += M dt/2 (f_c - f_d);   M times velocity Verlet of dt with f_d;   p += M dt/2 (f_c - f_d)

    f_c -> conservative_forces,  f_d -> direct_forces,  dt -> time_step,  M -> inner_steps

This is reversible RESPA (Tuckerman, Berne, Martyna, J. Chem. Phys. 97, 1990 (1992)) with the
split of Bigi, Langer and Ceriotti (arXiv:2412.11569). State in, state out: functions of arrays,
in any units that fit together, such as eV, Å, amu and ASE's unit of time.

`respa_steps` and `verlet_steps` are generators that yield what they need evaluated and are sent
the answer, so that the caller decides how to wait for it; `respa_step` and `verlet_step` answer
them with functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from twinforce_dynamics.steps import (
    Floats,
    ForceFunction,
    Kind,
    Question,
    State,
    Steps,
    answered,
    volume,
)
from twinforce_proto import Prediction

# What a thermostat or barostat does in the middle of an inner step. It is given the stress, or
# None, and says by which strain it deformed the system, or None.
Middle = Callable[[State, Floats | None], tuple[State, Floats | None]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Mechanics:
    """How atoms move between evaluations.

    Attributes:
        masses: Shape [n_atoms, 1].
        time_step: The inner one, dt.
        mobile: 1 for atoms that move and 0 for those that do not, shape [n_atoms, 1]. None: all.
        middle: Of a thermostat or barostat.
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

    M = 1 is velocity Verlet with conservative forces.

    Args:
        state: With a prediction of both forces, and of both stresses if the cell moves.
        direct: Evaluates the direct forces (and stress) alone.
        hybrid: Evaluates the energy and both forces (and stresses) together.
        mechanics: Masses, inner time step and what else acts.
        inner_steps: M.
    """
    return answered(respa_steps(state, mechanics, inner_steps), direct, hybrid)


def verlet_step(state: State, evaluate: ForceFunction, mechanics: Mechanics, kind: Kind) -> State:
    """Take one step of velocity Verlet with forces of one kind, from one evaluation."""
    return answered(verlet_steps(state, mechanics, kind), evaluate, evaluate)


def respa_steps(state: State, mechanics: Mechanics, inner_steps: int) -> Steps[State]:
    """Yield what the M inner steps of one outer step need evaluated; see `respa_step`."""
    span = inner_steps * mechanics.time_step
    start = state.prediction
    start_gradient = _slow_gradient(state)
    slow_stress = _difference(start.conservative_stress, start.direct_stress)
    given = _correction(start, mechanics, span / 2)
    state = _kick(state, given, mechanics.masses)
    strain = np.zeros((3, 3))
    for n_left in reversed(range(inner_steps)):
        ahead = (2 * n_left + 1 - inner_steps) / inner_steps * given if mechanics.middle else None
        state, more = yield from _inner_step(
            state, mechanics, "direct", slow_stress, ahead, is_whole=n_left == 0
        )
        if more is not None:
            strain += more
    state = _kick(state, _correction(state.prediction, mechanics, span / 2), mechanics.masses)
    if start_gradient is None:
        return state
    return _with_strain_work(state, start_gradient, _slow_gradient(state), strain)


def verlet_steps(state: State, mechanics: Mechanics, kind: Kind) -> Steps[State]:
    """Yield what one step of velocity Verlet with forces of one kind needs evaluated, once."""
    state, _ = yield from _inner_step(state, mechanics, kind)
    return state


def _inner_step(
    state: State,
    mechanics: Mechanics,
    kind: Kind,
    slow_stress: Floats | None = None,
    ahead: Floats | None = None,
    *,
    is_whole: bool = True,
) -> Steps[tuple[State, Floats | None]]:
    """Take one step of velocity Verlet.

    Args:
        state: With a prediction of this kind.
        mechanics: How atoms move.
        kind: Of forces and stress.
        slow_stress: What the correction adds to the stress.
        ahead: By how much the impulse of the correction is ahead of its force in the middle of
            this step: no momentum that a thermostat or barostat should count.
        is_whole: Whether this step is the last of an outer one.
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
        total = stress if slow_stress is None or stress is None else stress + slow_stress
        moved, strain = mechanics.middle(moved, total)
        if ahead is not None:
            moved = _less_work_on(moved, ahead, moved.momenta - momenta, mechanics.masses)
        positions = moved.positions + half * (moved.momenta / mechanics.masses)
    prediction = yield Question(positions, moved.cell, is_whole)
    momenta = moved.momenta + _impulse(_forces(prediction, kind), mechanics, half)
    moved = replace(moved, positions=positions, momenta=momenta, prediction=prediction)
    if strain is not None and gradient is not None:
        after = volume(moved.cell) * _needed(_stress(prediction, kind), f"{kind}_stress")
        moved = _with_strain_work(moved, gradient, after, strain)
    return moved, strain


def _correction(prediction: Prediction, mechanics: Mechanics, duration: float) -> Floats:
    """Return the impulse of (conservative - direct) forces."""
    forces = _forces(prediction, "conservative") - _forces(prediction, "direct")
    return _impulse(forces, mechanics, duration)


def _kick(state: State, impulse: Floats, masses: Floats) -> State:
    """Give the impulse of the correction, and count its work."""
    work = float(np.vdot(state.momenta + 0.5 * impulse, impulse / masses))
    return replace(
        state,
        momenta=state.momenta + impulse,
        correction_work=state.correction_work + work,
    )


def _less_work_on(state: State, ahead: Floats, change: Floats, masses: Floats) -> State:
    """Take from what was supplied the part that a change of momenta did to those ahead of time."""
    work = float(np.vdot(ahead / masses, change))
    return replace(state, supplied=state.supplied - work)


def _impulse(forces: Floats, mechanics: Mechanics, duration: float) -> Floats:
    impulse = duration * forces
    return impulse if mechanics.mobile is None else impulse * mechanics.mobile


def _with_strain_work(state: State, before: Floats, after: Floats | None, strain: Floats) -> State:
    """Count the work that a strain did: its change of the energy, to second order.

    ΔE = Σ 1/2 (G + G') ε        G = dE/dε = V σ -> before,  G' -> after,  ε -> strain
    """
    mean = before if after is None else 0.5 * (before + after)
    return replace(state, supplied=state.supplied + float(np.vdot(mean, strain)))


def _slow_gradient(state: State) -> Floats | None:
    """Return V (conservative - direct stress), in eV; None where there is no stress."""
    prediction = state.prediction
    difference = _difference(prediction.conservative_stress, prediction.direct_stress)
    return None if difference is None else volume(state.cell) * difference


def _difference(first: Floats | None, second: Floats | None) -> Floats | None:
    return None if first is None or second is None else first - second


def _forces(prediction: Prediction, kind: Kind) -> Floats:
    return _needed(getattr(prediction, f"{kind}_forces"), f"{kind}_forces")


def _stress(prediction: Prediction, kind: Kind) -> Floats | None:
    stress: Floats | None = getattr(prediction, f"{kind}_stress")
    return stress


def _needed(values: Floats | None, output: str) -> Floats:
    if values is None:
        raise ValueError(f"{output}: expected them in the prediction, got none")
    return values
