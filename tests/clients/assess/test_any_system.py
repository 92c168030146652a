"""Tests that an assessment ends with its page, whatever the system and the model are like."""

import json
import re
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedPlane

from tests.clients.serving import serve
from tests.potentials import NEON, Soft, WithoutDirect, loaded
from twinforce.assess import PRESETS, Conditions
from twinforce.cli import run

TOY, GAS = "lj", "gas"
NOT_SHOWN = {"not shown"}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The quick preset, with as little work as shows every figure."""
    usual = PRESETS["quick"]
    PRESETS["quick"] = replace(
        usual,
        n_loops=1,
        n_rounds=1,
        inner_steps=(4,),
        n_starts=2,
        max_steps=60,
        resonance_ps=0.26,
        nve_ps=0.06,
        nvt_ps=0.06,
        nvt=(
            ("direct", ("svr:10",)),
            ("hybrid-4", ("langevin:100",)),
            ("conservative", ("svr:10",)),
        ),
    )
    yield
    PRESETS["quick"] = usual


@pytest.fixture(scope="module")
def toys():
    with serve(model={TOY: "toy:lennard-jones", GAS: "toy:ideal-gas"}) as server:
        yield server


def crystal():
    return bulk("Ar", "fcc", a=5.3, cubic=True)


def rattled():
    atoms = crystal()
    atoms.rattle(0.1, seed=1)
    return atoms


def fixed(atoms, indices):
    atoms.set_constraint(FixAtoms(indices))
    return atoms


def half_fixed():
    """A crystal of two species, one of which is fixed."""
    atoms = rattled()
    atoms.symbols[0] = "Ne"
    return fixed(atoms, [0])


SYSTEMS = {
    "one atom": lambda: Atoms("Ar"),
    "one atom in a crystal": lambda: bulk("Ar", "fcc", a=5.3),
    "two atoms in a large vacuum": lambda: Atoms(
        "Ar2", [[0, 0, 0], [3.9, 0, 0]], cell=[200] * 3, pbc=True
    ),
    "a linear molecule": lambda: Atoms("ArNeAr", [[0, 0, 0], [3.6, 0, 0], [7.2, 0, 0]]),
    "a perfect crystal": crystal,
    "one free atom": lambda: fixed(rattled(), [0, 1, 2]),
    "a fixed species": half_fixed,
    "only fixed atoms": lambda: fixed(rattled(), range(4)),
    "one step": crystal,
}


def assessed(server, atoms, folder, *flags, model=TOY):
    """Assess with the command line; check that the page is whole, and return the report."""
    file = folder / "system.traj"
    ase.io.write(file, atoms)
    arguments = ["--preset", "quick", "--equilibration", "0.02", "--time-step", "2"]
    command = ["assess", str(file), "--url", server.grpc_url, "--model", model, *arguments]
    out = folder / "out"
    assert run([*command, "--temperature", "40", "--out", str(out), *flags]) == 0
    page = (out / "report.html").read_text()
    assert page.endswith("</body></html>\n")
    assert not re.findall(r">[^<]*\b(nan|None|inf)\b[^<]*<", page)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((out / "report.json").read_text(), parse_constant=refuse), page


def findings(report, topic):
    judgments = report["verdict"]["judgements"]
    return {each["subject"]: each["finding"] for each in judgments if each["topic"] == topic}


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_assessment_of_any_system_ends_with_its_page(toys, tmp_path, monkeypatch, name):
    short = {"nve_ps": 0.002, "nvt_ps": 0.002, "resonance_ps": 0.01} if name == "one step" else {}
    monkeypatch.setitem(PRESETS, "quick", replace(PRESETS["quick"], **short))
    report, page = assessed(toys, SYSTEMS[name](), tmp_path)
    units = [unit for piece in report["pieces"].values() for unit in piece.values()]
    if name == "only fixed atoms":
        assert {unit["note"] for unit in units} == {"not defined: no atom can move"}
        assert set(findings(report, "energy").values()) == NOT_SHOWN
        assert "not defined (no atom can move)" in page
        return
    assert {unit["status"] for unit in units} == {"done"}
    if name.startswith("one atom"):
        assert report["pieces"]["lambda"]["lambda:server"]["lambda"] is None
        assert "not defined: ‖J‖ = 0" in page
        assert "not defined: no forces along the paths" in page
    if name == "a fixed species":
        assert "not defined: fixed" in page
        assert "4 atoms (Ar3Ne), 1 of them fixed, at 40 K" in page
    if name == "one step":
        assert "not defined: too short" in page
    if name != "one step":
        safe = dict.fromkeys(("optimise:conservative", "optimise:hybrid"), "safe")
        assert safe.items() <= findings(report, "optimisation").items()


def test_a_system_without_forces_is_assessed(toys, tmp_path):
    report, _ = assessed(toys, rattled(), tmp_path, model=GAS)
    assert findings(report, "energy")["nve:conservative"] == "safe"
    assert set(findings(report, "optimisation").values()) == {"safe"}


class WithoutGradient(Soft):
    outputs = frozenset({"energy", "atom_energies", "direct_forces"})


class Failing(Soft):
    """A potential that fails for good after some batches, with an error or with NaN."""

    def __init__(self, n_good, error=None):
        super().__init__()
        self.n_good, self.error = n_good, error

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        if len(self.batches) <= self.n_good:
            return heads
        if self.error is not None:
            raise self.error
        return replace(heads, atom_energies=heads.atom_energies * torch.nan)


class Pumping(Soft):
    """A potential whose direct forces heat without bound."""

    def forward_heads(self, batch, *, direct):
        heads = super().forward_heads(batch, direct=direct)
        pumped = 5.0 * torch.sin(batch.positions)
        return replace(heads, direct_forces=pumped) if direct else heads


MODELS = {
    "without direct forces": (WithoutDirect(), {"skipped"}),
    "without conservative forces": (WithoutGradient(), {"skipped"}),
    "failing": (Failing(60, RuntimeError("tired")), {"failed"}),
    "failing early": (Failing(10, RuntimeError("tired")), {"failed", "not run"}),
    "not finite": (Failing(60), {"failed"}),
    "heating": (Pumping(), {"stopped"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_assessment_of_any_model_ends_with_its_page(tmp_path, name):
    potential, expected = MODELS[name]
    with serve({"odd": loaded(potential, "odd")}) as server:
        report, page = assessed(server, rattled(), tmp_path, model="odd")
    units = [unit for piece in report["pieces"].values() for unit in piece.values()]
    assert {unit["status"] for unit in units} - {"done"} == expected
    for status in expected:
        assert status in page
    if name == "failing early":
        assert "not run (failed: CalculationError: " in page
    if name == "without direct forces":
        assert findings(report, "optimisation") == {"optimise:conservative": "safe"}
    if name == "heating":
        assert findings(report, "energy")["nve:direct"] == "unsafe"


class Watching(Soft):
    """A potential that remembers where neon atoms were."""

    def __init__(self):
        super().__init__()
        self.places = []

    def forward_heads(self, batch, *, direct):
        self.places.append(batch.positions[batch.atomic_numbers == NEON].detach().clone())
        return super().forward_heads(batch, direct=direct)


def slab():
    """Return a slab whose fixed bottom is far from equilibrium and made of neon."""
    atoms = fcc111("Ar", (2, 2, 3), a=5.3, vacuum=8.0)
    bottom = [atom.index for atom in atoms if atom.tag == 3]
    atoms.symbols[bottom] = "Ne"
    atoms.positions[bottom[0]] += [0.4, 0.0, 0.3]
    return fixed(atoms, bottom), bottom


def test_fixed_atoms_are_never_moved_and_their_forces_do_not_count(tmp_path):
    atoms, bottom = slab()
    potential = Watching()
    with serve({"soft": loaded(potential)}) as server:
        potential.places.clear()  # those of the warm-up
        report, _ = assessed(server, atoms, tmp_path, model="soft")
    seen = torch.cat([each.reshape(-1, len(bottom), 3) for each in potential.places])
    assert len(seen) > 100
    expected = atoms.positions[bottom] - atoms.positions[bottom[0]]  # the service shifts systems
    relative = (seen - seen[:, :1]).numpy()
    np.testing.assert_allclose(relative, np.broadcast_to(expected, seen.shape), atol=1e-5)
    found = findings(report, "optimisation")
    assert found["optimise:conservative"] == found["optimise:hybrid"] == "safe"
    assert report["atoms"]["free_counts"] == {"Ar": 8}
    kinds = report["pieces"]["lambda"]
    assert kinds["lambda:client"]["direct"]["lambda"] == pytest.approx(
        kinds["lambda:server"]["lambda"], abs=1e-3
    )


def test_another_choice_of_fixed_atoms_is_another_assessment(toys, tmp_path, capsys):
    atoms = rattled()
    assessed(toys, atoms, tmp_path, "--pieces", "loops")
    file = tmp_path / "system.traj"
    ase.io.write(file, fixed(atoms, [0]))
    out = ["--out", str(tmp_path / "out"), "--url", toys.grpc_url, "--model", TOY]
    assert run(["assess", str(file), *out]) == 2
    assert "expected an assessment with" in capsys.readouterr().err


def test_masses_of_a_column_are_those_of_the_assessment(toys, tmp_path, capsys):
    """A column `mass` is read as in `twinforce md`, or refused if it is in another unit."""
    atoms = rattled()
    atoms.set_array("mass", 0.0104 * atoms.get_masses())
    file = tmp_path / "system.extxyz"
    ase.io.write(file, atoms)
    out = ["--out", str(tmp_path / "out"), "--url", toys.grpc_url, "--model", TOY]
    assert run(["assess", str(file), *out]) == 2
    assert "column mass: expected masses in amu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "constraint", [FixCartesian(0), FixedPlane([0], (0, 0, 1)), FixBondLengths([[0, 1]])]
)
def test_constraints_that_dynamics_cannot_keep_are_refused(toys, tmp_path, capsys, constraint):
    atoms = rattled()
    atoms.set_constraint(constraint)
    file = tmp_path / "system.traj"
    ase.io.write(file, atoms)
    out = ["--out", str(tmp_path / "out"), "--url", toys.grpc_url, "--model", TOY]
    assert run(["assess", str(file), *out]) == 2
    kind = type(constraint).__name__
    assert f"constraints: expected FixAtoms only, got {kind}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["temperature_k", "time_step_fs", "fmax", "equilibration_ps"])
def test_conditions_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        Conditions(**{name: -1.0})
