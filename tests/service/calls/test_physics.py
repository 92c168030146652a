"""Tests that the service moves a system as the client does with the same forces."""

import ase.data
import numpy as np
import pytest
from ase import Atoms, units
from ase.constraints import FixAtoms

from tests.service.calls.conftest import CELL, argon, start, velocities
from twinforce import Client, Integrator
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator
from twinforce.ensembles import BAR, FS, NPT, NVE, SVR, Langevin
from twinforce_dynamics.elements import MASSES, SYMBOLS

ENSEMBLES = {
    "nve": NVE(),
    "svr": SVR(temperature_k=60.0, relaxation_fs=50),
    "local": SVR(temperature_k=60.0, relaxation_fs=50, scope="local"),
    "langevin": Langevin(temperature_k=60.0, relaxation_fs=50),
    "isotropic": NPT(
        thermostat=SVR(temperature_k=60.0, relaxation_fs=50),
        pressure_bar=1600.0,
        relaxation_fs=500,
    ),
    "anisotropic": NPT(
        thermostat=Langevin(temperature_k=60.0, relaxation_fs=50),
        pressure_bar=1600.0,
        relaxation_fs=500,
        coupling="anisotropic",
    ),
}
CASES = [("hybrid", name) for name in ENSEMBLES] + [("conservative", "nve"), ("direct", "svr")]


def on_the_client(url, integrator, n_outer, fixed=()):
    """Return the states after each outer step of the same run on the client."""
    system = argon()
    atoms = Atoms(numbers=system.atomic_numbers, positions=system.positions, cell=CELL, pbc=True)
    atoms.set_velocities(velocities())
    if fixed:
        atoms.set_constraint(FixAtoms(fixed))
    with TwinForceCalculator(url) as atoms.calc:
        dynamics = MultipleTimeStepping(
            atoms,
            integrator.duration,
            inner_steps=integrator.inner_steps,
            ensemble=integrator.ensemble,
            forces=integrator.force_kind,
            seed=7,
        )
        return [_values_of(dynamics) for _ in dynamics.irun(n_outer)]


def _values_of(dynamics):
    atoms = dynamics.atoms
    values = {
        "positions": atoms.positions.copy(),
        "velocities": atoms.get_velocities(),
        "cell": atoms.cell.array.copy(),
        "energy": dynamics.energy,
        "kinetic_energy": dynamics.kinetic_energy,
        "conserved_energy": dynamics.conserved_energy(),
        "temperature_k": dynamics.temperature_k,
        "species_temperatures": list(dynamics.species_temperatures.values()),
    }
    return values | _disagreement_values(dynamics.disagreement)


def _disagreement_values(disagreement):
    if disagreement is None:
        return {}
    rmse = list(disagreement.species_rmse.values())
    return {"disagreement": [disagreement.rmse, disagreement.work, disagreement.total_work, *rmse]}


def values_in(snapshot, names):
    values = {name: getattr(snapshot, name) for name in names if name != "disagreement"}
    temperatures = values["species_temperatures"]
    values["species_temperatures"] = [temperatures[symbol] for symbol in ("Ar", "Kr")]
    return values | _disagreement_values(snapshot.disagreement)


def assert_same_trajectory(snapshots, expected, tolerance=1e-9):
    assert len(snapshots) == len(expected)
    for snapshot, values in zip(snapshots, expected, strict=True):
        for name, value in values_in(snapshot, values).items():
            np.testing.assert_allclose(value, values[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("force_kind", "name"), CASES)
@pytest.mark.filterwarnings("ignore:Direct forces")
def test_a_hundred_steps_equal_those_of_the_client(server, force_kind, name):
    inner_steps = 8 if force_kind == "hybrid" else 1
    integrator = Integrator(
        time_step_fs=0.5,
        force_kind=force_kind,
        inner_steps=inner_steps,
        ensemble=ENSEMBLES[name],
    )
    n_outer = -(-100 // inner_steps)
    expected = on_the_client(server.grpc_url, integrator, n_outer)
    with Client(server.grpc_url) as client:
        snapshots = list(client.propagate(start(integrator), n_outer * inner_steps, inner_steps))
    assert_same_trajectory(snapshots, expected)
    moved = np.abs(snapshots[-1].positions - snapshots[0].positions).max()
    assert moved > 0.01  # otherwise the comparison shows nothing


def test_every_transport_sends_the_same_snapshots(client, server):
    integrator = Integrator(inner_steps=4, ensemble=ENSEMBLES["isotropic"])
    expected = on_the_client(server.grpc_url, integrator, 4)
    first = list(client.propagate(start(integrator), 8, 4))
    rest = list(client.propagate(first[-1].checkpoint, 8, 4))
    assert_same_trajectory(first + rest, expected)


def test_fixed_atoms_stay_and_do_not_count_in_the_temperature(client, server):
    integrator = Integrator(inner_steps=4, ensemble=ENSEMBLES["langevin"])
    expected = on_the_client(server.grpc_url, integrator, 4, (1, 6))
    snapshots = list(client.propagate(start(integrator, fixed_atoms=[6, 1]), 16, 4))
    assert_same_trajectory(snapshots, expected)
    assert (snapshots[-1].positions[[1, 6]] == argon().positions[[1, 6]]).all()


def test_heavier_atoms_move_less(client):
    integrator = Integrator(force_kind="conservative")
    masses = np.full(8, 1e6)
    *_, last = client.propagate(start(integrator, masses=masses), 10)
    drifted = argon().positions + velocities() * last.time_fs * FS
    np.testing.assert_allclose(last.positions, drifted, atol=1e-4)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_run_resumes_from_a_checkpoint_bit_for_bit(server, name):
    integrator = Integrator(time_step_fs=0.7, inner_steps=3, ensemble=ENSEMBLES[name])
    with Client(server.grpc_url) as client:
        whole = list(client.propagate(start(integrator), 24, 3))
        rest = list(client.propagate(whole[4], 12, 3))
    assert [each.step for each in rest] == [each.step for each in whole[5:]] == [15, 18, 21, 24]
    for one, other in zip(rest, whole[5:], strict=True):
        assert one.checkpoint == other.checkpoint
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.velocities, other.velocities)
        assert one.conserved_energy == other.conserved_energy


def test_the_interval_selects_the_steps_of_the_snapshots(client):
    begin = start(Integrator(inner_steps=2))

    def steps(n_steps, interval):
        return [each.step for each in client.propagate(begin, n_steps, interval)]

    assert steps(14, 4) == [0, 4, 8, 12, 14]
    assert steps(14, 0) == [0, 14]
    assert steps(4, 8) == [0, 4]


def test_without_a_seed_random_numbers_differ(client):
    begin = start(Integrator(inner_steps=2, ensemble=ENSEMBLES["langevin"]), random=None)
    again = start(Integrator(inner_steps=2, ensemble=ENSEMBLES["langevin"]), random=None)
    (_, one), (_, other) = client.propagate(begin, 4), client.propagate(again, 4)
    assert not np.array_equal(one.positions, other.positions)


def test_elements_and_units_are_those_of_ase():
    assert list(SYMBOLS) == ase.data.chemical_symbols[1:119]
    assert np.array_equal(MASSES, ase.data.atomic_masses_iupac2016[1:119])
    assert units.fs == FS
    assert pytest.approx(BAR, rel=1e-9) == units.bar
