"""Tests that algorithms of ASE find with a service what they find with the calculator itself."""

import inspect
import warnings

import numpy as np
import pytest
from ase import units
from ase.build import add_adsorbate, bulk, fcc100, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.filters import ExpCellFilter, FrechetCellFilter, StrainFilter, UnitCellFilter
from ase.md.andersen import Andersen
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.melchionna import MelchionnaNPT
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.nptberendsen import NPTBerendsen
from ase.md.nvtberendsen import NVTBerendsen
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS, FIRE, FIRE2, LBFGS, MDMin, QuasiNewton
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from twinforce.ase import TwinForceCalculator
from twinforce.md import draw_velocities

PROGRAM = "ase"
FS = units.fs
THERMAL = {"temperature_K": 300.0}
PRESSURE = {"pressure_au": 0.0, "taup": 500 * FS, "compressibility_au": 1.0}
INTEGRATORS = [
    (VelocityVerlet, {}),
    (Langevin, {**THERMAL, "friction": 0.01 / FS, "fixcm": False}),
    (Andersen, {**THERMAL, "andersen_prob": 0.1}),
    (Bussi, {**THERMAL, "taut": 100 * FS}),
    (NVTBerendsen, {**THERMAL, "taut": 100 * FS}),
    (NPTBerendsen, {**THERMAL, **PRESSURE, "taut": 100 * FS}),
    (NoseHooverChainNVT, {**THERMAL, "tdamp": 100 * FS}),
    (IsotropicMTKNPT, {**THERMAL, "pressure_au": 0.0, "tdamp": 100 * FS, "pdamp": 1000 * FS}),
    (MTKNPT, {**THERMAL, "pressure_au": 0.0, "tdamp": 100 * FS, "pdamp": 1000 * FS}),
    (MelchionnaNPT, {**THERMAL, "externalstress": 0.0, "ttime": 25 * FS, "pfactor": 10.0}),
]


@pytest.fixture
def calculators(service):
    """The calculator in this process, and that of the service."""
    with TwinForceCalculator(service, model="elements6") as remote:
        yield EMT(), remote


def copper(seed=1, repeat=(2, 1, 1)):
    atoms = bulk("Cu", cubic=True).repeat(repeat)
    atoms.rattle(0.05, seed=seed)
    return atoms


def agree(calculators, compute, atol=1e-8):
    """Check that a computation has the same result with both calculators."""
    local, remote = (compute(calculator) for calculator in calculators)
    np.testing.assert_allclose(remote, local, atol=atol)


@pytest.mark.parametrize("optimizer", [BFGS, LBFGS, FIRE, FIRE2, MDMin, QuasiNewton])
def test_optimizers(calculators, optimizer):
    """Optimizers: six of them take the same steps to the same minimum."""

    def relax(calculator):
        atoms = copper()
        atoms.calc = calculator
        with optimizer(atoms, logfile=None) as search:
            assert search.run(fmax=0.02, steps=300)
        return np.vstack([atoms.positions, [[atoms.get_potential_energy(), search.nsteps, 0.0]]])

    agree(calculators, relax, atol=1e-6)


@pytest.mark.parametrize("kind", [UnitCellFilter, ExpCellFilter, FrechetCellFilter, StrainFilter])
def test_filters(calculators, kind):
    """Filters: cells relax to the same shape, also that of a slab in its plane."""

    def relax(calculator):
        found = []
        slab = fcc100("Cu", (2, 2, 2), vacuum=6.0)
        for atoms, mask in ((copper(), None), (slab, [1, 1, 0, 0, 0, 1])):
            atoms.set_cell(atoms.cell * [[1.02], [1.02], [1.0]], scale_atoms=True)
            atoms.calc = calculator
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of ExpCellFilter
                moving = kind(atoms, mask=mask)
            with BFGS(moving, logfile=None) as search:
                assert search.run(fmax=0.01, steps=200)
            found.append(atoms.cell.array)
        return np.vstack(found)

    agree(calculators, relax, atol=1e-6)


@pytest.mark.parametrize("method", ["aseneb", "improvedtangent", "eb"])
def test_bands(calculators, method):
    """NEB: the barrier of an atom that hops on a surface."""

    def barrier(calculator):
        images = []
        for place in ((0, 0), (1, 0)):
            slab = fcc100("Cu", (2, 2, 2), vacuum=6.0)
            add_adsorbate(slab, "Cu", 1.7, "hollow", offset=place)
            slab.set_constraint(FixAtoms([atom.index for atom in slab if atom.tag == 2]))
            images.append(slab)
        images = [images[0], *(images[0].copy() for _ in range(3)), images[1]]
        for image in images:
            image.calc = calculator
        band = NEB(images, method=method, climb=True, allow_shared_calculator=True)
        band.interpolate()
        with FIRE(band, logfile=None) as search:
            search.run(fmax=0.1, steps=25)
        return [image.get_potential_energy() for image in images]

    agree(calculators, barrier, atol=1e-6)


def test_vibrations(calculators, tmp_path, monkeypatch):
    """Vibrations: the frequencies of a molecule."""
    monkeypatch.chdir(tmp_path)

    def energies(calculator):
        atoms = molecule("H2O", calculator=calculator)
        with BFGS(atoms, logfile=None) as search:
            assert search.run(fmax=0.005)
        vibrations = Vibrations(atoms, name=type(calculator).__name__)
        vibrations.run()
        return vibrations.get_energies()[6:].real

    agree(calculators, energies, atol=1e-6)


def test_phonons(calculators, tmp_path, monkeypatch):
    """Phonons: the frequencies at some points of the zone."""
    monkeypatch.chdir(tmp_path)

    def energies(calculator):
        name = type(calculator).__name__
        phonons = Phonons(bulk("Cu"), calculator, supercell=(3, 3, 3), delta=0.03, name=name)
        phonons.run()
        phonons.read(acoustic=True)
        return phonons.band_structure(np.array([[0.5, 0, 0.5], [0.1, 0.2, 0.3]]), verbose=False)

    agree(calculators, energies, atol=1e-6)


@pytest.mark.parametrize(
    ("integrator", "options"), INTEGRATORS, ids=[kind.__name__ for kind, _ in INTEGRATORS]
)
def test_dynamics(calculators, integrator, options):
    """Molecular dynamics: ten integrators take the same steps."""

    def move(calculator):
        atoms = copper()
        atoms.set_cell(np.triu(atoms.cell.array), scale_atoms=True)
        atoms.calc = calculator
        draw_velocities(atoms, 300, np.random.default_rng(1))
        seeded = "rng" in inspect.signature(integrator.__init__).parameters
        more = {"rng": np.random.default_rng(2)} if seeded else {}
        integrator(atoms, timestep=2 * FS, **options, **more).run(10)
        return np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell.array])

    agree(calculators, move)
