"""The steps of multiple time stepping: special cases, number of evaluations and accuracy."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.dynamics.toys import Wells
from twinforce_dynamics.mts import Mechanics, respa_step, verlet_step
from twinforce_dynamics.steps import State, kinetic_energy

MASSES = np.array([[1.0], [2.0], [16.0], [1.0]])
CELL = np.zeros((3, 3))


def start(wells, seed=0):
    rng = np.random.default_rng(seed)
    positions = rng.normal(scale=0.7, size=(4, 3))
    momenta = np.sqrt(MASSES) * rng.normal(scale=0.5, size=(4, 3))
    return State(positions, momenta, CELL, wells.hybrid(positions, CELL))


def run(wells, time, time_step, inner_steps, state=None):
    state = start(wells) if state is None else state
    mechanics = Mechanics(masses=MASSES, time_step=time_step)
    for _ in range(round(time / time_step / inner_steps)):
        state = respa_step(state, wells.direct, wells.hybrid, mechanics, inner_steps)
    return state


def verlet(wells, time, time_step, kind="conservative"):
    state = start(wells)
    mechanics = Mechanics(masses=MASSES, time_step=time_step)
    for _ in range(round(time / time_step)):
        state = verlet_step(state, wells.hybrid, mechanics, kind)
    return state


def total(state):
    return state.prediction.energy + kinetic_energy(state.momenta, MASSES)


def assert_same(one, other, atol):
    np.testing.assert_allclose(one.positions, other.positions, rtol=0, atol=atol)
    np.testing.assert_allclose(one.momenta, other.momenta, rtol=0, atol=atol)


def test_one_inner_step_is_velocity_verlet_with_conservative_forces():
    wells = Wells(swirl=0.5)
    assert_same(run(wells, 10.0, 0.05, 1), verlet(wells, 10.0, 0.05), 1e-12)


@pytest.mark.parametrize("inner_steps", [2, 5, 8])
def test_with_equal_forces_every_number_of_inner_steps_is_velocity_verlet(inner_steps):
    wells = Wells(swirl=0.0)
    found = run(wells, 10.0, 0.05, inner_steps)
    assert_same(found, verlet(wells, 10.0, 0.05), 1e-12)
    assert found.correction_work == 0.0


def test_a_verlet_step_matches_textbook_velocity_verlet():
    wells, time_step = Wells(), 0.05
    state = start(wells)
    positions, velocities = state.positions.copy(), state.momenta / MASSES
    for _ in range(40):
        forces = wells.hybrid(positions, CELL).conservative_forces
        positions = positions + velocities * time_step + forces / MASSES * time_step**2 / 2
        after = wells.hybrid(positions, CELL).conservative_forces
        velocities = velocities + (forces + after) / MASSES * time_step / 2
    found = verlet(wells, 2.0, time_step)
    np.testing.assert_allclose(found.positions, positions, atol=1e-12)
    np.testing.assert_allclose(found.momenta, MASSES * velocities, atol=1e-12)


@pytest.mark.parametrize("inner_steps", [1, 4, 8])
def test_an_outer_step_costs_all_but_one_direct_evaluation_and_one_of_both(inner_steps):
    wells = Wells(swirl=0.5)
    state = start(wells)
    wells.n_direct = wells.n_hybrid = 0
    run(wells, 10 * inner_steps * 0.01, 0.01, inner_steps, state)
    assert (wells.n_direct, wells.n_hybrid) == (10 * (inner_steps - 1), 10)


@pytest.mark.parametrize("inner_steps", [1, 4])
def test_steps_are_time_reversible(inner_steps):
    wells = Wells(swirl=0.3)
    first = start(wells)
    there = run(wells, 8.0, 0.05, inner_steps, first)
    assert np.abs(there.positions - first.positions).max() > 0.1
    back = run(wells, 8.0, 0.05, inner_steps, replace(there, momenta=-there.momenta))
    assert_same(replace(back, momenta=-back.momenta), first, 1e-10)


def test_the_error_is_of_second_order_in_the_time_step():
    wells = Wells(swirl=0.3)
    exact = verlet(wells, 4.0, 0.0005)
    errors = [
        np.abs(run(wells, 4.0, time_step, 4).positions - exact.positions).max()
        for time_step in (0.04, 0.02, 0.01)
    ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, 2.0, atol=0.15)


def test_the_energy_error_is_of_second_order_and_does_not_drift():
    wells = Wells(swirl=0.3)
    spreads = []
    for time_step in (0.04, 0.02):
        state, energies = start(wells), []
        for _ in range(round(200.0 / time_step / 4)):
            state = run(wells, 4 * time_step, time_step, 4, state)
            energies.append(total(state))
        spreads.append(np.std(energies))
        halves = np.split(np.array(energies), 2)
        assert abs(halves[0].mean() - halves[1].mean()) < 0.3 * np.std(energies)
    assert np.log2(spreads[0] / spreads[1]) == pytest.approx(2.0, abs=0.2)


def test_direct_forces_alone_increase_the_energy():
    wells = Wells(swirl=0.3)
    first = start(wells)
    assert total(verlet(wells, 20.0, 0.02, "direct")) > total(first) + 1.0
    assert total(run(wells, 20.0, 0.02, 4)) == pytest.approx(total(first), abs=0.01)


def test_the_work_of_the_corrections_is_minus_that_of_the_swirl():
    wells = Wells(swirl=0.1)
    time_step, inner_steps = 0.002, 4
    state, mechanics = start(wells), Mechanics(masses=MASSES, time_step=time_step)
    swirled = 0.0
    for _ in range(500):
        before = state.positions
        state = respa_step(state, wells.direct, wells.hybrid, mechanics, inner_steps)
        middle = (before + state.positions) / 2
        swirled += np.vdot(wells._swirl(middle), state.positions - before)
    assert abs(swirled) > 0.1
    assert state.correction_work == pytest.approx(-swirled, rel=0.01)


def test_fixed_atoms_do_not_move():
    wells = Wells(swirl=0.3)
    mobile = np.array([[1.0], [0.0], [1.0], [1.0]])
    state = start(wells)
    state = replace(state, momenta=state.momenta * mobile)
    mechanics = Mechanics(masses=MASSES, time_step=0.05, mobile=mobile)
    after = respa_step(state, wells.direct, wells.hybrid, mechanics, 4)
    np.testing.assert_array_equal(after.positions[1], state.positions[1])
    np.testing.assert_array_equal(after.momenta[1], 0.0)
    assert (after.positions[[0, 2, 3]] != state.positions[[0, 2, 3]]).all()


def test_a_state_without_both_forces_is_refused():
    wells = Wells()
    state = start(wells)
    bare = replace(state, prediction=wells.direct(state.positions, CELL))
    mechanics = Mechanics(masses=MASSES, time_step=0.05)
    with pytest.raises(ValueError, match="conservative_forces: expected values"):
        respa_step(bare, wells.direct, wells.hybrid, mechanics, 4)


def test_the_step_needs_neither_ase_nor_torch():
    program = (
        "import sys, twinforce_dynamics.mts, twinforce_dynamics.trajectory; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"ase", "torch", "scipy"} & set(done.stdout.split())
