"""Ensembles, compared with distributions that are known in closed form or by quadrature."""

import copy
import inspect
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import gamma, kstest

from tests.dynamics.toys import Hills, Lattice, Wells
from twinforce_dynamics.bath import Bath
from twinforce_dynamics.ensembles import (
    NPT,
    NVE,
    SVR,
    Langevin,
    make_ensemble,
)
from twinforce_dynamics.steps import complete, kinetic_energy, volume
from twinforce_dynamics.trajectory import Stepper
from twinforce_dynamics.units import BAR, BOLTZMANN, FS

KT = 0.7
TEMPERATURE = KT / BOLTZMANN
GLOBAL = SVR(temperature_k=TEMPERATURE, relaxation_fs=1.0 / FS)
LOCAL = SVR(temperature_k=TEMPERATURE, relaxation_fs=1.0 / FS, scope="local")
LANGEVIN = Langevin(temperature_k=TEMPERATURE, relaxation_fs=1.0 / FS)
PRESSURE = 0.3


def constant_pressure(thermostat, coupling="isotropic", relaxation_fs=1.0 / FS):
    return NPT(
        thermostat=thermostat,
        pressure_bar=PRESSURE / BAR,
        relaxation_fs=relaxation_fs,
        coupling=coupling,
        compressibility_per_bar=BAR / PRESSURE,
    )


def walker(toy, ensemble, masses, *, inner_steps=4, time_step=0.05, cell=None, seed=0, **more):
    """Return a stepper and a state to start from; atoms in wells feel walls."""
    rng = np.random.default_rng(seed)
    n_atoms = len(masses)
    in_wells = isinstance(toy, Wells)
    bath = Bath(ensemble, masses, np.ones((n_atoms, 1)) if in_wells else None, rng)
    stepper = Stepper(more.get("force_kind", "hybrid"), inner_steps, time_step, bath)
    positions = rng.normal(scale=0.7, size=(n_atoms, 3))
    momenta = np.sqrt(KT * masses) * rng.standard_normal((n_atoms, 3))
    cell = np.zeros((3, 3)) if cell is None else cell
    start = stepper.start(positions, bath.thermal(momenta), cell)
    return stepper, complete(start, toy.direct, toy.hybrid)


def follow(toy, stepper, state, n_steps):
    for _ in range(n_steps):
        state = complete(stepper.step(state), toy.direct, toy.hybrid)
        yield state


def mean_and_error(values, n_blocks=20):
    """Return the mean along the first axis and its standard error, from block averages."""
    values = np.asarray(values)
    blocks = values[len(values) % n_blocks :].reshape(n_blocks, -1, *values.shape[1:]).mean(axis=1)
    return blocks.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(n_blocks)


def assert_close(values, expected, max_error):
    mean, error = mean_and_error(values)
    assert np.all(error < max_error), f"too short a run: {error}"
    assert np.all(np.abs(mean - expected) < 4 * error), f"{mean} ± {error}, not {expected}"


MIXED = np.repeat([[1.0], [16.0], [40.0]], 3, axis=0)
HEAVY = (MIXED[:, 0] > 1.0).astype(int)  # species 0 and 1: light and heavy atoms


@pytest.mark.parametrize("thermostat", [GLOBAL, LOCAL], ids=["global", "local"])
def test_velocity_rescaling_alone_draws_kinetic_energies_from_their_distribution(thermostat):
    bath = Bath(thermostat, MIXED, None, np.random.default_rng(1))
    _, state = walker(Hills(), thermostat, MIXED, cell=9.0 * np.eye(3))
    drawn = []
    for _ in range(2000):
        state = bath.rescale_momenta(state, 8.0 * thermostat.relaxation_fs * FS)
        drawn.append(kinetic_energy(bath.thermal(state.momenta), MIXED))
    n_dof = 24 if thermostat is GLOBAL else 27
    assert bath.degrees_of_freedom() == pytest.approx(n_dof)
    assert kstest(drawn, gamma(n_dof / 2, scale=KT).cdf).pvalue > 0.01


def test_a_short_rescaling_changes_the_kinetic_energy_as_its_equation_predicts():
    bath = Bath(GLOBAL, MIXED, None, np.random.default_rng(2))
    _, state = walker(Hills(), GLOBAL, MIXED, cell=9.0 * np.eye(3))
    before = kinetic_energy(state.momenta, MIXED)
    duration, target = 0.02, 12 * KT
    kept = np.exp(-duration)
    after = np.array(
        [kinetic_energy(bath.rescale_momenta(state, duration).momenta, MIXED) for _ in range(4000)]
    )
    expected = kept * before + (1 - kept) * target
    assert after.mean() == pytest.approx(expected, abs=4 * after.std() / np.sqrt(4000))
    spread = np.sqrt(4 * before * target / 24 * duration)
    assert after.std() == pytest.approx(spread, rel=0.06)


def test_global_rescaling_preserves_directions_and_the_center_of_mass():
    stepper, state = walker(Hills(), GLOBAL, MIXED, cell=9.0 * np.eye(3))
    pushed = state.momenta + 0.3 * MIXED
    bath = stepper.bath
    after = bath.rescale_momenta(replace(state, momenta=pushed), 0.5).momenta
    np.testing.assert_allclose(after.sum(axis=0), pushed.sum(axis=0))
    before, warm = state.momenta, bath.thermal(after)
    np.testing.assert_allclose(warm / before, (warm / before)[0, 0])


@pytest.mark.parametrize("thermostat", [GLOBAL, LOCAL, LANGEVIN], ids=["svr", "local", "langevin"])
def test_a_thermostat_around_multiple_time_steps_samples_the_canonical_distribution(thermostat):
    wells = Wells(k=1.0, q=0.0, swirl=0.15)
    stepper, state = walker(wells, thermostat, MIXED, time_step=0.04)
    momenta, positions = [], []
    for each in follow(wells, stepper, state, 6000):
        momenta.append(each.momenta)
        positions.append(each.positions)
    twice = (np.array(momenta) ** 2 / MIXED).sum(axis=2).reshape(-1, 3, 3).sum(axis=2)
    if thermostat is GLOBAL:  # one factor for all atoms, which are otherwise independent
        twice = twice.sum(axis=1) / 3
    assert_close(twice / 9, KT, 0.05 * KT)
    assert_close((np.array(positions) ** 2).mean(axis=(1, 2)), KT, 0.06 * KT)
    totals = (np.array(momenta) ** 2 / MIXED).sum(axis=(1, 2)) / 2
    assert np.var(totals) == pytest.approx(27 / 2 * KT**2, rel=0.2)


def test_direct_forces_alone_miss_the_temperature():
    wells = Wells(k=1.0, q=0.0, swirl=0.15)
    gentle = SVR(temperature_k=TEMPERATURE, relaxation_fs=5.0 / FS)
    stepper, state = walker(
        wells, gentle, MIXED, time_step=0.04, force_kind="direct", inner_steps=1
    )
    momenta = np.array([each.momenta for each in follow(wells, stepper, state, 5000)])
    species = (momenta**2 / MIXED).sum(axis=2).reshape(-1, 3, 3).sum(axis=2) / 9
    mean, error = mean_and_error(species)
    assert (np.abs(mean - KT) > 6 * error).any()


def test_degrees_of_freedom_add_up_over_species():
    rng = np.random.default_rng(0)
    momenta = rng.standard_normal((9, 3))
    for thermostat, mobile, n_dof in [
        (GLOBAL, None, 24),
        (LOCAL, None, 27),
        (LANGEVIN, None, 27),
        (GLOBAL, 1 - np.eye(9, 1), 24),
    ]:
        bath = Bath(thermostat, MIXED, mobile, rng)
        assert bath.degrees_of_freedom() == pytest.approx(n_dof)
        moving = momenta if mobile is None else momenta * mobile
        overall, _ = bath.temperatures_k(moving, HEAVY, 2)
        assert overall == pytest.approx(bath.temperature_k(moving))


def test_all_species_have_the_same_temperature_without_center_of_mass_motion():
    rng = np.random.default_rng(3)
    bath = Bath(GLOBAL, MIXED, None, rng)
    drawn = np.sqrt(KT * MIXED) * rng.standard_normal((4000, 9, 3))
    found = [bath.temperatures_k(each, HEAVY, 2)[1] for each in drawn]
    assert_close(found, TEMPERATURE, 0.02 * TEMPERATURE)


@pytest.mark.parametrize(
    ("coupling", "thermostat", "shape"),
    [("isotropic", GLOBAL, 8), ("isotropic", LANGEVIN, 9), ("anisotropic", LANGEVIN, 9)],
)
def test_the_volume_of_an_ideal_gas_follows_its_distribution(coupling, thermostat, shape):
    """The density is V^N exp(-P V/kT), or V^(N-1) if the center-of-mass motion is not thermal.

    An anisotropic cell needs a lattice to keep its shape, and local noise, because
    without collisions a global thermostat never transfers energy between directions.
    """
    toy = Lattice(k=40.0 if coupling == "anisotropic" else 0.0, length=2.4)
    masses = np.ones((8, 1))
    fast = {GLOBAL: SVR, LANGEVIN: Langevin}[thermostat](
        temperature_k=TEMPERATURE, relaxation_fs=0.1 / FS
    )
    stepper, state = walker(
        toy,
        constant_pressure(fast, coupling),
        masses,
        inner_steps=2,
        time_step=0.03,
        cell=2.5 * np.eye(3),
    )
    volumes = np.array([volume(each.cell) for each in follow(toy, stepper, state, 5000)])
    expected, spread = volume_moments(toy, shape, coupling)
    mean, error = mean_and_error(volumes[300:])
    assert error < 0.04 * expected
    bias = 0.02 * expected  # of Euler's method at this time step; half the time step gives 1%
    assert abs(mean - expected) < 3 * error + bias
    assert volumes[300:].std() == pytest.approx(spread, rel=0.2)


def volume_moments(toy, shape, coupling, n=400_000):
    """Return the mean and the spread of the volume for the weight V^(shape - 1) exp(-(E + P V)/kT).

    Isotropic: by quadrature. Anisotropic: over lower triangular cells T, for which the measure
    dV of the weight is V^-2 dh of all nine numbers, or V^-2 T11² T22 dT, by importance sampling.
    """
    if coupling == "isotropic":
        lengths = np.linspace(0.5, 8.0, 20_000)
        cells, volumes = lengths[:, None, None] * np.eye(3), lengths**3
        weights = lengths**2 * volumes ** (shape - 1)
    else:
        rng = np.random.default_rng(0)
        spreads = np.where(np.eye(3), 0.5, 0.7)
        noise = rng.standard_normal((n, 3, 3))
        cells = np.tril(1.1 * toy.length * np.eye(3) + spreads * noise)
        first, second, _ = diagonal = np.einsum("nii->in", cells)
        volumes = diagonal.prod(axis=0)
        guess = np.exp(-(np.tril(noise) ** 2).sum(axis=(1, 2)) / 2)
        weights = np.where((diagonal > 0.2).all(axis=0), first**2 * second, 0.0)
        weights *= np.abs(volumes) ** (shape - 3) / guess
    weights = weights * np.exp(-(toy.energy(cells) + PRESSURE * volumes) / KT)
    mean = np.average(volumes, weights=weights)
    return mean, np.sqrt(np.average((volumes - mean) ** 2, weights=weights))


def test_the_reference_distribution_of_the_ideal_gas_matches_its_closed_form():
    mean, spread = volume_moments(Lattice(k=0.0, length=1.0), 8, "isotropic")
    assert mean == pytest.approx(8 * KT / PRESSURE, rel=1e-3)
    assert spread == pytest.approx(np.sqrt(8) * KT / PRESSURE, rel=1e-3)


def test_the_cell_follows_the_conservative_stress_if_the_direct_one_is_wrong():
    toy = Lattice(k=60.0, length=2.0, wrong_pressure=2.0)
    masses = np.ones((8, 1))
    ensemble = constant_pressure(
        SVR(temperature_k=TEMPERATURE, relaxation_fs=0.1 / FS), relaxation_fs=4.0 / FS
    )
    means = {}
    for forces, inner_steps in (("hybrid", 4), ("direct", 1)):
        stepper, state = walker(
            toy,
            ensemble,
            masses,
            force_kind=forces,
            inner_steps=inner_steps,
            time_step=0.03 if forces == "hybrid" else 0.1,
            cell=2.0 * np.eye(3),
        )
        volumes = [volume(each.cell) for each in follow(toy, stepper, state, 3000)]
        means[forces] = mean_and_error(volumes[300:])
    expected, _ = volume_moments(toy, 8, "isotropic")
    mean, error = means["hybrid"]
    assert error < 0.02 * expected
    assert abs(mean - expected) < 4 * error
    assert means["direct"][0] > expected + 10 * error


CELL = np.array([[4.0, 0.0, 0.0], [0.5, 4.0, 0.0], [0.0, -0.4, 4.2]])
ENSEMBLES = {
    "nve": NVE(),
    "svr": GLOBAL,
    "local": LOCAL,
    "langevin": LANGEVIN,
    "isotropic": constant_pressure(GLOBAL, relaxation_fs=10.0 / FS),
    "anisotropic": constant_pressure(GLOBAL, "anisotropic", relaxation_fs=10.0 / FS),
    "isotropic langevin": constant_pressure(LANGEVIN, relaxation_fs=10.0 / FS),
}


def conserved(state, masses):
    return state.prediction.energy + kinetic_energy(state.momenta, masses) - state.supplied


@pytest.mark.parametrize(
    ("name", "inner_steps"), [(name, 4) for name in ENSEMBLES] + [("isotropic", 1)]
)
def test_the_conserved_energy_is_conserved_to_second_order(name, inner_steps):
    """Use the root mean square over walkers, because random numbers add errors of random sign."""
    toy, masses = Hills(swirl=0.4), np.ones((8, 1))
    grid = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3), axis=-1).reshape(-1, 3) @ CELL
    errors = []
    for time_step in (0.08, 0.02):
        changes = []
        for seed in range(6):
            stepper, state = walker(
                toy,
                ENSEMBLES[name],
                masses,
                inner_steps=inner_steps,
                time_step=time_step / inner_steps,
                cell=CELL,
                seed=seed,
            )
            start = stepper.start(grid, state.momenta, CELL)
            state = complete(start, toy.direct, toy.hybrid)
            for last in follow(toy, stepper, state, round(1.6 / time_step)):
                changes.append(conserved(last, masses) - conserved(state, masses))
        errors.append(np.sqrt(np.mean(np.square(changes))))
    assert np.log2(errors[0] / errors[1]) / 2 == pytest.approx(2.0, abs=0.7)
    if name != "nve":
        assert abs(last.supplied) > 10 * errors[1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: SVR(temperature_k=-1.0, relaxation_fs=1.0 / FS),
            "SVR: temperature_k: expected a positive",
        ),
        (
            lambda: Langevin(temperature_k=1.0, relaxation_fs=0.0),
            "Langevin: relaxation_fs: expected",
        ),
        (
            lambda: SVR(temperature_k=1.0, relaxation_fs=1.0 / FS, scope="all"),
            "SVR: scope: expected one",
        ),
        (lambda: constant_pressure(GLOBAL, "diagonal"), "NPT: coupling: expected one of isotropic"),
    ],
)
def test_ensembles_with_invalid_values_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SVR(temperature_k=300.0, relaxation=1.0), r"relaxation: expected relaxation_fs"),
        (lambda: Langevin(temperature_k=300.0, relaxation=1.0), "relaxation: expected relaxation_"),
        (lambda: replace(constant_pressure(GLOBAL), relaxation=1.0), "relaxation_fs=100 "),
        (lambda: replace(constant_pressure(GLOBAL), pressure=1.0), "pressure: expected pressure_b"),
        (
            lambda: replace(constant_pressure(GLOBAL), compressibility=70.0),
            "multiply it by ase.units.bar\\), got compressibility=70.0$",
        ),
    ],
)
def test_former_names_of_numbers_without_units_are_refused_by_the_new_ones(make, text):
    with pytest.raises(TypeError, match=text):
        make()


@pytest.mark.parametrize("ensemble", [GLOBAL, LOCAL, LANGEVIN, constant_pressure(GLOBAL)])
def test_ensembles_survive_pickling_and_copying(ensemble):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(ensemble, protocol)) == ensemble
    assert copy.copy(ensemble) == copy.deepcopy(ensemble) == ensemble
    assert hash(copy.deepcopy(ensemble)) == hash(ensemble)


OLD_SVR = (  # of SVR(temperature_k=300.0, relaxation=100 * ase.units.fs), by position
    b"\x80\x02ctwinforce_dynamics.ensembles\nSVR\nq\x00)\x81q\x01]q\x02("
    b"G@r\xc0\x00\x00\x00\x00\x00G@#\xa58@V\x15\xe9X\x06\x00\x00\x00globalq\x03eb."
)
OLD_NPT = (  # of one at 1 bar, with relaxation=1000 * ase.units.fs; without its thermostat
    b"ccopy_reg\n_reconstructor\np0\n(ctwinforce_dynamics.ensembles\nNPT\np1\n"
    b"c__builtin__\nobject\np2\nNtp3\nRp4\n(lp5\nNaF6.241509126e-07\naF98.22694788464064\n"
    b"aVisotropic\np11\naF73.7001245554215\nab."
)


@pytest.mark.parametrize(
    ("pickled", "text"),
    [
        (OLD_SVR, "SVR: expected a pickle with names of values, .* with relaxation_fs, .*=100 "),
        (OLD_NPT, "NPT: expected .* relaxation_fs, .* pressure_bar, .* compressibility_per_bar, "),
    ],
)
def test_pickles_of_values_by_position_in_former_units_are_refused(pickled, text):
    with pytest.raises(TypeError, match=text):
        pickle.loads(pickled)


@pytest.mark.parametrize("ensemble", [GLOBAL, LANGEVIN, constant_pressure(GLOBAL)])
def test_signatures_tell_the_values_and_values_without_names_are_refused(ensemble):
    kind = type(ensemble)
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == [each.name for each in fields(kind)]
    assert {each.kind for each in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match=rf"{kind.__name__}: .* by name \(.*_fs.*, got 2 without"):
        kind(300.0, 100.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'temperature'"):
        kind(temperature=300.0)


PLAIN = {
    "temperature_k": 300.0,
    "relaxation_fs": 100.0,
    "pressure_bar": 2.0,
    "pressure_relaxation_fs": 500.0,
    "compressibility_per_bar": 1e-5,
}


@pytest.mark.parametrize(
    ("name", "thermostat", "expected"),
    [
        ("nve", "svr", NVE()),
        ("svr", "svr", SVR(temperature_k=300.0, relaxation_fs=100.0)),
        ("svr-local", "svr", SVR(temperature_k=300.0, relaxation_fs=100.0, scope="local")),
        ("langevin", "svr", Langevin(temperature_k=300.0, relaxation_fs=100.0)),
        (
            "npt-anisotropic",
            "langevin",
            NPT(
                thermostat=Langevin(temperature_k=300.0, relaxation_fs=100.0),
                pressure_bar=2.0,
                relaxation_fs=500.0,
                coupling="anisotropic",
                compressibility_per_bar=1e-5,
            ),
        ),
    ],
)
def test_an_ensemble_is_made_from_plain_settings(name, thermostat, expected):
    assert make_ensemble(name, thermostat=thermostat, **PLAIN) == expected


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("nvt", {}, "ensemble: expected one of nve, svr, .*, got 'nvt'"),
        ("npt-isotropic", {"thermostat": "nose"}, "thermostat: expected one of svr, .*'nose'"),
        ("svr-local", {"temperature_k": 0.0}, "svr-local: temperature_k: expected a positive"),
        ("langevin", {"relaxation_fs": -1.0}, "langevin: relaxation_fs: .* got -1.0"),
        ("npt-isotropic", {"pressure_relaxation_fs": 0.0}, "pressure_relaxation_fs: expected"),
        ("npt-isotropic", {"pressure_bar": np.nan}, "pressure_bar: expected a finite number"),
    ],
)
def test_invalid_plain_settings_are_refused(name, changes, text):
    with pytest.raises(ValueError, match=text):
        make_ensemble(name, **PLAIN | changes)


@pytest.mark.parametrize("thermostat", [GLOBAL, LOCAL])
def test_rescaling_momenta_of_zero_is_refused(thermostat):
    bath = Bath(thermostat, MIXED, None, np.random.default_rng(0))
    _, state = walker(Hills(), NVE(), MIXED, cell=9.0 * np.eye(3))
    with pytest.raises(ValueError, match="momenta: expected nonzero momenta"):
        bath.rescale_momenta(replace(state, momenta=np.zeros((9, 3))), 1.0)
