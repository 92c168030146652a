"""The pressure of liquid copper from `elements6` and from a reference, on the same systems.

    python -m bench.studies.melts --reference mace:path/to/mace.model --data path/to/mlearn6.xyz

The systems are sampled with the model at several densities. The pressure at the density of the
reference shows the error of the model's own density, without long runs at constant pressure. The
systems are also written with the labels of the reference, for the training of a next version. A
fitted constant per atom brings its energies to the zero of the data.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from tqdm import tqdm

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from twinforce_models import registry
from twinforce_models.potential import Potential
from twinforce_models.prediction import predict
from twinforce_models.training.dataset import read_examples, to_system
from twinforce_models.training.sampling import PotentialCalculator
from twinforce_proto import Prediction

DENSITIES = (7.8, 7.2, 6.6)  # g/cm³
TEMPERATURE_K, MELTED_AT_K = 1600.0, 3000.0
# Densities, in g/cm³, at which systems of others are added to the labels, scaled.
SCALED = {7.8: 8.2, 7.2: 7.5}
_OUTPUTS = ("energy", "conservative_forces", "conservative_stress")
_AMU_PER_A3 = 1.66053907  # in g/cm³
_N_SYSTEMS, _N_CELLS = 6, 3


def sampled(potential: Potential, density: float) -> list[Atoms]:
    """Return liquids of 108 atoms, 180 fs apart: melted for 0.9 ps, cooled for 0.9 ps; 3 fs."""
    atoms = bulk("Cu", "fcc", 1.0, cubic=True).repeat(_N_CELLS)
    atoms = scaled(atoms, density)
    rng = np.random.default_rng(3)
    spread = np.sqrt(2 * units.kB * TEMPERATURE_K / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * rng.standard_normal((len(atoms), 3)))
    atoms.calc = PotentialCalculator(potential)
    found = []
    for temperature, lengths in ((MELTED_AT_K, [300]), (TEMPERATURE_K, [300] + [60] * _N_SYSTEMS)):
        dynamics = Langevin(
            atoms,
            3 * units.fs,
            temperature_K=temperature,
            friction=0.01 / units.fs,
            fixcm=False,
            rng=rng,
        )
        for n_steps in lengths:
            dynamics.run(n_steps)
            found.append(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return found[-_N_SYSTEMS:]


def scaled(atoms: Atoms, density: float) -> Atoms:
    """Return the atoms with the cell and the positions scaled to a density, in g/cm³."""
    factor = (atoms.get_masses().sum() * _AMU_PER_A3 / density / atoms.get_volume()) ** (1 / 3)
    changed = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    changed.set_cell(factor * atoms.cell.array, scale_atoms=True)
    return changed


def pressure_gpa(prediction: Prediction, atoms: Atoms) -> float:
    """Return the pressure at `TEMPERATURE_K`: that of an ideal gas, and the one from the stress."""
    ideal = len(atoms) * units.kB * TEMPERATURE_K / atoms.get_volume()
    stress = np.asarray(prediction.conservative_stress)
    return float((ideal - np.trace(stress) / 3) / units.GPa)


def energy_offset(reference: Potential, data: Path) -> tuple[float, float]:
    """Return the energy per atom of liquid copper in the data less that of the reference.

    Returns:
        The mean over every eighth system with forces above 1 eV/Å, and its standard deviation.
    """
    liquid = [
        example
        for example in read_examples(data)
        if set(example.symbols) == {"Cu"} and np.square(example.get_forces()).mean() > 1.0
    ]
    differences = [
        (example.get_potential_energy() - evaluated(reference, example).energy) / len(example)
        for example in liquid[::8]
    ]
    return float(np.mean(differences)), float(np.std(differences))


def evaluated(potential: Potential, atoms: Atoms) -> Prediction:
    """Return the energy, conservative forces and conservative stress."""
    (prediction,) = predict(potential, [to_system(atoms)], _OUTPUTS)
    return prediction


def labeled(reference: Potential, atoms: Atoms, energy: float, work: float) -> Atoms:
    """Return a copy with labels of the reference as the data have them.

    Args:
        reference: Model of the labels.
        atoms: System.
        energy: Energy per atom that is added, in eV.
        work: Volume times stress per atom that is added, in eV, because the recipe subtracts it.
    """
    prediction, example = evaluated(reference, atoms), atoms.copy()
    stress = np.asarray(prediction.conservative_stress)
    stress = stress + work * len(atoms) / atoms.get_volume() * np.eye(3)
    example.calc = SinglePointCalculator(
        example,
        energy=prediction.energy + energy * len(atoms),
        forces=prediction.conservative_forces,
        stress=stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
    )
    example.info["split"] = "train"
    return example


def compare(model: Potential, reference: Potential, systems: Sequence[Atoms]) -> dict[str, Any]:
    """Return the mean pressure of both and its standard error, in GPa."""
    found = {}
    for name, potential in (("model", model), ("reference", reference)):
        values = [pressure_gpa(evaluated(potential, atoms), atoms) for atoms in systems]
        found[f"{name}_gpa"] = float(np.mean(values))
        found[f"{name}_error_gpa"] = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write bench/results/melts.json, and the labeled systems if --labels names a file."""
    parser = parser_of("bench.studies.melts", __doc__)
    parser.add_argument("--model", default="elements6", help="name or folder of the model")
    parser.add_argument("--reference", required=True, help="name of the model that is compared")
    parser.add_argument("--data", type=Path, help="extended XYZ file with labels, for --labels")
    parser.add_argument("--labels", type=Path, help="file for the systems with labels")
    parser.add_argument(
        "--work", type=float, default=0.193, help="stress offset of Cu in the recipe, in eV"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    if options.labels and not options.data:
        parser.error("--labels: expected --data too, for the zero of the energies")
    torch.set_num_threads(1)
    loaded, reference = (
        registry.load(name, device="cpu", dtype="float32")
        for name in (options.model, options.reference)
    )
    systems = {
        density: sampled(loaded.potential, density) for density in tqdm(DENSITIES, desc="liquids")
    }
    result = {
        "sha256": loaded.info.sha256,
        "reference": options.reference.split("/")[-1],
        "machine": describe_machine(1),
        "temperature_k": TEMPERATURE_K,
        "pressures": {
            f"{density:g}": compare(loaded.potential, reference.potential, each)
            for density, each in systems.items()
        },
    }
    (options.out / "melts.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    if options.labels:
        energy, spread = energy_offset(reference.potential, options.data)
        print(f"energy of the data less the reference: {energy:.4f} ± {spread:.4f} eV/atom")
        everything = [each for group in systems.values() for each in group]
        everything += [
            scaled(each, to) for density, to in SCALED.items() for each in systems[density]
        ]
        ase.io.write(
            options.labels,
            [labeled(reference.potential, each, energy, options.work) for each in everything],
        )


if __name__ == "__main__":
    main()
