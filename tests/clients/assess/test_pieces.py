"""Tests of the units of an assessment on a toy model whose direct forces have a known curl."""

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from tests.systems import molecule
from twinforce.ase import system_of
from twinforce.assess.budget import NEVER, Deadline
from twinforce.assess.folder import read_results
from twinforce.assess.units.cost import cost_unit
from twinforce.assess.units.loops import directions, loops_unit, path_around, work_around
from twinforce.assess.units.nonconservativity import client_unit, server_unit
from twinforce.assess.units.optimize import optimize_unit
from twinforce.assess.units.simulation import record_of, simulate
from twinforce.assess.units.start import KEY, start_unit, starting_atoms
from twinforce.md import MDSettings, draw_velocities
from twinforce_models.potentials.toys.lennard_jones import lennard_jones

OVER = Deadline(0.0)


def test_lambda_is_exact_by_both_routes(subject, tmp_path):
    exact = lennard_jones().exact_lambda(system_of(subject.atoms))
    by_service = server_unit(subject).work(subject, tmp_path, NEVER).values
    by_client = client_unit(subject).work(subject, tmp_path, NEVER).values
    assert by_service["lambda"] == pytest.approx(exact, rel=1e-6)
    assert by_client["direct"]["lambda"] == pytest.approx(exact, rel=1e-4)
    assert by_client["conservative"]["lambda"] < 1e-5
    ours, theirs = by_client["direct"]["pairs"], by_service["pairs"]
    assert ours["distances"] == theirs["distances"]
    np.testing.assert_allclose(ours["lambdas"], theirs["lambdas"], rtol=1e-3)


def test_lambda_of_a_pair_agrees_with_its_closed_form(subject, tmp_path):
    pair = Atoms("Ar2", [[0, 0, 0], [1.0, 2.0, 3.0]])
    subject = replace(subject, atoms=pair)
    jacobian = lennard_jones().direct_jacobian(system_of(pair))
    block, other = jacobian[:3, 3:], jacobian[3:, :3]
    exact = np.linalg.norm((block - other.T) / 2) / np.sqrt(
        (np.linalg.norm(block) ** 2 + np.linalg.norm(other) ** 2) / 2
    )
    pairs = server_unit(subject).work(subject, tmp_path, NEVER).values["pairs"]
    assert pairs["lambdas"] == pytest.approx([exact], rel=1e-5)
    assert abs(pairs["distances"][0] - np.sqrt(14)) <= 0.125


def test_finite_differences_continue_after_the_last_complete_column(subject, tmp_path):
    unit = client_unit(subject)
    nothing = unit.work(subject, tmp_path, OVER)
    assert (nothing.is_done, nothing.values["share_done"]) == (False, 0.0)
    whole = unit.work(subject, tmp_path, NEVER)
    path = tmp_path / "columns.f64"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 - 5])
    assert unit.work(subject, tmp_path, NEVER).values == whole.values
    assert path.read_bytes() == content


def test_work_around_small_loops_follows_from_the_curl(client):
    """By Stokes' theorem, W = π a² v·(J - Jᵀ)·u to leading order, with J in closed form."""
    system = molecule(6, seed=2)
    u, v = directions(6, np.random.default_rng(0))
    assert np.vdot(u, u) == pytest.approx(6.0)
    assert np.vdot(u, v) == pytest.approx(0.0, abs=1e-12)
    amplitude = 1e-3
    center = system.positions - amplitude * u
    jacobian = lennard_jones().direct_jacobian(system.moved(center))
    curl = (jacobian - jacobian.T) @ u.ravel()
    points, tangents = path_around(system.positions, u, v, amplitude, 32)
    predictions = client.predict([system.moved(each) for each in points], "hybrid")
    works = {}
    for kind in ("direct_forces", "conservative_forces"):
        forces = np.array([getattr(each, kind) for each in predictions])
        works[kind], error, _ = work_around(forces, tangents)
        assert error < 1e-11
    expected = np.pi * amplitude**2 * float(v.ravel() @ curl)
    assert works["direct_forces"] == pytest.approx(expected, rel=1e-3)
    assert abs(works["conservative_forces"]) < 1e-4 * abs(expected)


def test_the_quadrature_error_of_a_loop_is_estimated():
    angles = np.arange(4) * np.pi / 2
    forces = np.cos(4 * angles)[:, None, None] * np.ones((1, 1, 3))
    work, error, length = work_around(forces, np.ones((4, 1, 3)))
    assert work == pytest.approx(6 * np.pi)
    assert length == pytest.approx(6 * np.pi)
    smooth = work_around(np.zeros((4, 1, 3)), np.ones((4, 1, 3)))
    assert smooth == (0.0, 0.0, 0.0)
    assert error == pytest.approx(0.0, abs=1e-12)
    uneven = work_around(np.arange(4.0)[:, None, None] * np.ones((1, 1, 3)), np.ones((4, 1, 3)))
    assert uneven[1] > 1.0


def test_loops_are_summarized_per_atom(subject, conditions, tmp_path):
    unit = loops_unit(3, conditions)
    found = unit.work(subject, tmp_path, NEVER)
    assert found.is_done
    direct, conservative = found.values["direct"], found.values["conservative"]
    assert direct["rms_work_mev_per_atom"] > 1e3 * conservative["rms_work_mev_per_atom"]
    work = [loop["direct_forces"]["work"] for loop in found.values["loops"]]
    expected = np.sqrt(np.mean(np.square(work))) * 1e3 / 8
    assert direct["rms_work_mev_per_atom"] == pytest.approx(expected)
    assert direct["error_mev_per_atom"] > 0


def settings_of(forces, n_steps, ensemble="langevin"):
    return MDSettings(
        forces=forces,
        inner_steps=4,
        ensemble=ensemble,
        n_steps=n_steps,
        time_step_fs=2.0,
        temperature_k=40.0,
        relaxation_fs=100.0,
        seed=1,
    )


@pytest.mark.parametrize("forces", ["hybrid", "direct"])
def test_a_simulation_continues_bit_for_bit(subject, tmp_path, forces):
    start = subject.atoms.copy()
    draw_velocities(start, 40.0, np.random.default_rng(0))
    places = [tmp_path / "whole", tmp_path / "halves"]
    for place in places:
        place.mkdir()
    simulate(subject, start, settings_of(forces, 80), places[0], NEVER)
    first = simulate(subject, start, settings_of(forces, 40), places[1], NEVER)
    assert (first.n_inner, first.is_done, first.note) == (40, True, "")
    # Records after the last checkpoint are cut off and written again.
    with (places[1] / "rows.f64").open("ab") as file:
        file.write(b"x" * 100)
    second = simulate(subject, start, settings_of(forces, 80), places[1], NEVER)
    assert (second.n_inner, second.is_done) == (80, True)
    for name in ("rows.f64", "positions.f32", "velocities.f32"):
        whole, halves = ((place / name).read_bytes() for place in places)
        assert whole == halves
    record = record_of(start, settings_of(forces, 80), places[1], has_motion=True)
    n_rows = 80 // 4 + 1 if forces == "hybrid" else 81
    assert len(record.series()["energy"]) == n_rows
    assert len(record.positions()) == -(-n_rows // record.layout.position_interval)
    assert np.isfinite(record.series()["rmse"]).all() == (forces == "hybrid")


def test_a_simulation_stops_at_its_deadline_and_continues_later(subject, tmp_path):
    start = subject.atoms.copy()
    draw_velocities(start, 40.0, np.random.default_rng(0))
    ending = simulate(subject, start, settings_of("direct", 50), tmp_path, OVER)
    assert (ending.n_inner, ending.is_done) == (0, False)
    ending = simulate(subject, start, settings_of("direct", 50), tmp_path, NEVER)
    assert (ending.n_inner, ending.is_done) == (50, True)


def test_a_simulation_that_explodes_is_stopped(subject, tmp_path):
    start = subject.atoms.copy()
    draw_velocities(start, 400.0, np.random.default_rng(0))
    ending = simulate(subject, start, settings_of("conservative", 50, "nve"), tmp_path, NEVER)
    assert ending.is_done
    assert ending.n_inner < 50
    assert ending.note.startswith("stopped at ")


def test_truncated_recordings_are_refused(subject, tmp_path):
    start = subject.atoms.copy()
    draw_velocities(start, 40.0, np.random.default_rng(0))
    simulate(subject, start, settings_of("direct", 10), tmp_path, NEVER)
    (tmp_path / "rows.f64").write_bytes(b"")
    with pytest.raises(ValueError, match=r"rows\.f64: expected \d+ bytes, got 0"):
        simulate(subject, start, settings_of("direct", 20), tmp_path, NEVER)


def test_the_start_is_equilibrated_once(subject, started):
    place = started.parent / KEY
    atoms = starting_atoms(subject, place)
    assert not np.allclose(atoms.positions, subject.atoms.positions)
    assert atoms.get_temperature() > 5.0
    again = start_unit(subject).work(subject, place, NEVER)
    np.testing.assert_array_equal(starting_atoms(subject, place).positions, atoms.positions)
    assert again.values == read_results(place).values
    frequencies = again.values["square_frequencies"]
    assert set(frequencies) == {"Ar", "Ne"}
    assert frequencies["Ne"] > frequencies["Ar"]  # lighter, in the same surroundings


def test_costs_are_measured_in_rounds(subject, conditions, started):
    unit = cost_unit((2, 8), 2, conditions)
    found = unit.work(subject, started, NEVER)
    assert found.is_done
    ways = found.values["ways"]
    assert list(ways) == ["direct", "conservative", "hybrid-2", "hybrid-8"]
    assert ways["direct"]["over_direct"]["value"] == 1.0
    f = found.values["f"]["value"]
    assert ways["conservative"]["over_direct"]["value"] == f
    assert ways["hybrid-2"]["expected_over_direct"] == pytest.approx(1 + (f - 1) / 2)
    for each in found.values["rounds"]:
        assert all(
            0 < each["compute_s"][name] < each["call_s"][name] for name in ("direct", "hybrid")
        )


@pytest.mark.parametrize("strategy", ["direct", "conservative", "hybrid"])
def test_optimizations_are_judged_by_the_conservative_force(
    subject, conditions, tmp_path, strategy
):
    unit = optimize_unit(strategy, 2, 0.002, 300, conditions)
    found = unit.work(subject, tmp_path, NEVER).values
    starts = json.loads((tmp_path / "starts.json").read_text())
    assert set(starts) == {"0", "1"}
    for each in starts.values():
        assert each["is_minimum"] == (each["largest_force"] <= 0.002)
        assert (each["n_direct"] > 0) == (strategy != "conservative")
        assert (each["n_conservative"] > 0) == (strategy != "direct")
    assert found["success_rate"] == np.mean([each["is_minimum"] for each in starts.values()])
    assert found["success_rate"] == 1.0 or strategy == "direct"
    assert unit.work(subject, tmp_path, NEVER).values == found


def test_direct_forces_do_not_lead_a_cluster_to_its_minimum(subject, conditions, tmp_path):
    cluster = replace(subject, atoms=Atoms("Ar5", molecule(5).positions))
    for strategy, rate in (("direct", 0.0), ("conservative", 1.0)):
        place = tmp_path / strategy
        place.mkdir()
        unit = optimize_unit(strategy, 1, 5e-4, 150, conditions)
        assert unit.work(cluster, place, NEVER).values["success_rate"] == rate


def test_no_optimization_runs_without_time(subject, conditions, tmp_path):
    unit = optimize_unit("conservative", 2, 0.002, 300, conditions)
    found = unit.work(subject, tmp_path, OVER)
    assert (found.is_done, found.values["n_done"]) == (False, 0)
