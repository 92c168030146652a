"""Tests of i-PI with the potential-energy surface that the package ships, and through a socket."""

import re
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT

from tests.docs.pages import ROOT
from tests.ecosystem.conftest import code_below
from tests.ecosystem.serving import service_of
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator
from twinforce.ipi import PES_PATH
from twinforce.md import draw_velocities

PROGRAM = "ipi"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
# ASE's unit of momentum, sqrt(eV·amu), in atomic units.
MOMENTUM = units.Ha**-0.5 * (units._amu / units._me) ** 0.5


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """The address of a service of the bundled model `water`, in float64."""
    with service_of(tmp_path_factory.mktemp("water"), water="water") as url:
        yield url


@pytest.fixture
def atoms(tmp_path):
    """Eight molecules of water in a box, also in the file start.xyz."""
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")[:24]
    atoms.set_cell([9.0, 9.5, 10.0])
    draw_velocities(atoms, 300, np.random.default_rng(1))
    ase.io.write(tmp_path / "start.xyz", atoms, format="extxyz")
    return atoms


def run(folder, text, url):
    """Run i-PI with an input of the documentation, and return its properties."""
    text = text.replace("/path/to/twinforce/ipi/driver.py", str(PES_PATH))
    (folder / "input.xml").write_text(text.replace("grpc://127.0.0.1:8001", url))
    program = Path(sys.executable).with_name("i-pi")
    command = [sys.executable, str(program), "input.xml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return np.loadtxt(folder / "run.out")


def test_multiple_time_stepping(water, atoms, tmp_path):
    """MTS by i-PI: the conserved energy at each step is that of our own MTS."""
    momenta = [float(each) for each in (atoms.get_momenta() * MOMENTUM).ravel()]
    start = f"<momenta mode='manual' units='atomic_unit'>{momenta}</momenta>"
    text = code_below("Multiple time stepping by i-PI", "xml")
    text = re.sub(r"<velocities.*</velocities>", start, text)
    theirs = run(tmp_path, text, water)[:, 1]
    with TwinForceCalculator(water) as atoms.calc:
        dynamics = MultipleTimeStepping(atoms, 0.5 * units.fs, inner_steps=4)
        ours = [dynamics.conserved_energy()]
        for _ in range(5):
            dynamics.run(1)
            ours.append(dynamics.conserved_energy())
    assert np.ptp(ours) > 1e-4
    np.testing.assert_allclose(theirs - theirs[0], np.array(ours) - ours[0], atol=1e-5)


def test_ring_polymers(water, atoms, tmp_path):
    """Path integrals: beads in one request move as they do one by one."""
    del atoms  # their file is the template
    text = code_below("Ring polymers", "xml")
    together = run(tmp_path, text, water)
    one_by_one = run(tmp_path, text.replace("<batch_size>8", "<batch_size>1"), water)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert np.ptp(together[:, 3]) > 0.0


def test_sockets(water, atoms, tmp_path):
    """The bridge: i-PI by sockets, with a connection for each of four of the beads, moves alike."""
    del atoms  # their file is the template
    text = code_below("Ring polymers", "xml")
    direct = run(tmp_path, text, water)
    name = f"twinforce-{tmp_path.name}-{time.time_ns()}"
    by_socket = re.sub(
        r"<ffdirect name='forces'>.*</ffdirect>",
        f"<ffsocket name='forces' mode='unix' pbc='false'><address>{name}</address></ffsocket>",
        text,
        flags=re.DOTALL,
    )
    command = [sys.executable, "-m", "twinforce.socket_bridge.main", "start.xyz", "--url", water]
    command += ["--connect", f"unix:{name}", "--connections", "4"]
    with subprocess.Popen(command, cwd=tmp_path) as bridge:
        found = run(tmp_path, by_socket, water)
        assert bridge.wait(timeout=60) == 0
    np.testing.assert_allclose(found, direct, atol=1e-5)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False)])
def test_a_structure(service, atoms, pbc):
    """The surface itself: energy, forces and virial of a calculator, in the units of i-PI."""
    atoms.pbc = pbc
    ase.io.write("start.xyz", atoms, format="extxyz")
    driver = driver_of(template="start.xyz", url=service, model="water")
    cell, positions = atoms.cell.array.T / units.Bohr, atoms.positions / units.Bohr
    atoms.calc = EMT()
    for energy, forces, virial, _ in (
        driver(cell, positions),
        *driver([cell] * 2, [positions] * 2),
    ):
        assert energy == pytest.approx(atoms.get_potential_energy() / units.Ha, rel=1e-6)
        expected = atoms.get_forces() * units.Bohr / units.Ha
        np.testing.assert_allclose(forces, expected, rtol=1e-6, atol=1e-8)
        expected = -atoms.get_volume() * atoms.get_stress(voigt=False) / units.Ha
        np.testing.assert_allclose(virial, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"forces": "both"}, "forces: expected conservative or direct"),
        ({"forces": "direct"}, "model 'water' lacks direct_forces, direct_stress"),
        ({"stress": "perhaps"}, "stress: expected true or false"),
    ],
)
def test_invalid_parameters(service, atoms, options, text):
    """Errors: parameters that cannot be right are refused at the start."""
    del atoms
    with pytest.raises(ValueError, match=text):
        driver_of(template="start.xyz", url=service, model="water", **options)


def driver_of(**parameters):
    from ipi.pes import load_pes

    return load_pes("custom", str(PES_PATH))(**parameters)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
