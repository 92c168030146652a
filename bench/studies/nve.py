"""The energy drift of the bundled model in a long NVE run that can be resumed.

    python -m bench.studies.nve --forces conservative --picoseconds 20

The network is compiled for the run, and ASE's velocity Verlet integrates it.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from bench.runner.command_line import parser_of
from bench.runner.record import RESULTS
from bench.runner.systems import WATER
from twinforce.md import fit_drift
from twinforce_models import registry
from twinforce_models.memory import keep_freed_memory
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.training.dataset import tabulate, to_batch
from twinforce_models.training.steps import Evaluation, Inputs, compiled, make_evaluate

TABLE_WIDTH = 56
STEPS_PER_ROW = 10
ROWS_PER_CHECKPOINT = 100
COLUMNS = ("time_ps", "total_energy_ev", "kinetic_temperature_k", "longest_oh_angstrom")


class CompiledWater(Calculator):  # type: ignore[misc]
    """The network compiled for one size of system, as an ASE calculator in this process."""

    implemented_properties = ("energy", "forces")

    def __init__(self, potential: HybridNet, example: Atoms, *, conservative: bool) -> None:
        super().__init__()
        self.potential, self.conservative = potential, conservative
        self.parameters = list(potential.core.parameters())
        evaluate = make_evaluate(potential.core, conservative=conservative)
        self.evaluate = compiled(evaluate, self.parameters, [self._inputs(example)[0]])

    def _inputs(self, atoms: Atoms) -> tuple[Inputs, torch.Tensor]:
        """Return the arguments of the network, and the reference energies of the atoms."""
        batch = to_batch([atoms], self.potential.cutoff)
        kinds = self.potential.kind_of_element[batch.atomic_numbers]
        index, vectors, reverse = tabulate(batch, self.potential.cutoff, TABLE_WIDTH)
        references = self.potential.reference_energies[kinds]
        membership = torch.ones(1, len(kinds))
        return (kinds, vectors.float(), index, reverse, membership), references

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate energy and the chosen forces."""
        super().calculate(atoms, properties, system_changes)
        arguments, references = self._inputs(self.atoms)
        with torch.no_grad():
            found = Evaluation(*self.evaluate(self.parameters, *arguments))
        forces = found.conservative_forces if self.conservative else found.direct_forces
        self.results = {
            "energy": float(references.sum() + found.energy.double()),
            "forces": forces.double().numpy(),
        }


def longest_bond(atoms: Atoms, pairs: NDArray[np.int64]) -> float:
    """Return the longest distance among the pairs, between nearest images, in Å."""
    vectors = atoms.positions[pairs[:, 1]] - atoms.positions[pairs[:, 0]]
    fractional = vectors @ np.linalg.inv(atoms.cell.array)
    return float(np.linalg.norm((fractional - fractional.round()) @ atoms.cell.array, axis=1).max())


def bonds_of_water(atoms: Atoms) -> NDArray[np.int64]:
    """Return each hydrogen with its nearest oxygen, shape [n_hydrogens, 2]."""
    oxygens, hydrogens = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 1)
    distances = atoms.get_all_distances(mic=True)[np.ix_(hydrogens, oxygens)]
    return np.stack([hydrogens, oxygens[distances.argmin(axis=1)]], axis=1)


def summarize(rows: NDArray[np.float64], n_atoms: int) -> dict[str, float]:
    """Return the drift and further figures of a run.

    Args:
        rows: `COLUMNS`, shape [n_rows, 4].
        n_atoms: Number of atoms.
    """
    drift = fit_drift(rows[:, 0] * 1e3, rows[:, 1], n_atoms)
    if drift is None:
        raise SystemExit("the run is too short for a drift")
    energy = rows[:, 1] / n_atoms * 1e3
    return {
        "drift_mev_per_atom_per_ps": drift.rate,
        "error": drift.error,
        "picoseconds": float(rows[-1, 0]),
        "energy_fluctuation_mev_per_atom": float(energy.std()),
        "mean_temperature_k": float(rows[:, 2].mean()),
        "first_temperature_k": float(rows[: len(rows) // 10, 2].mean()),
        "last_temperature_k": float(rows[-len(rows) // 10 :, 2].mean()),
        "longest_oh_angstrom": float(rows[:, 3].max()),
    }


def draw(rows: NDArray[np.float64], n_atoms: int, title: str, path: Path) -> None:
    """Draw the total energy and the temperature against time."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    axes[0].plot(rows[:, 0], (rows[:, 1] - rows[0, 1]) / n_atoms * 1e3, linewidth=0.7)
    axes[0].set(ylabel="total energy - start, meV/atom", title=title)
    axes[1].plot(rows[:, 0], rows[:, 2], linewidth=0.7)
    axes[1].set(ylabel="temperature, K", xlabel="time, ps")
    figure.savefig(path, dpi=110)


def start(checkpoint: Path, path: Path, temperature: float, seed: int) -> tuple[Atoms, int]:
    """Return the atoms and the number of steps that they have taken."""
    atoms = ase.io.read(path)
    if checkpoint.exists():
        with np.load(checkpoint) as saved:
            atoms.positions, n_steps = saved["positions"], int(saved["n_steps"])
            atoms.set_velocities(saved["velocities"])
        return atoms, n_steps
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=np.random.default_rng(seed))
    Stationary(atoms)
    return atoms, 0


def save(checkpoint: Path, atoms: Atoms, n_steps: int) -> None:
    """Write what `start` needs to resume the run, atomically."""
    partial = checkpoint.with_suffix(".partial.npz")
    np.savez(partial, positions=atoms.positions, velocities=atoms.get_velocities(), n_steps=n_steps)
    partial.replace(checkpoint)


def run(options: argparse.Namespace) -> NDArray[np.float64]:
    """Start or resume the run, and return the rows of the log."""
    keep_freed_memory()
    torch.set_num_threads(1)
    name = f"nve_{options.forces}"
    checkpoint, log = options.out / f"{name}.npz", options.out / f"{name}.csv"
    atoms, done = start(checkpoint, options.start, options.temperature, options.seed)
    potential = registry.load(options.model, device="cpu", dtype=torch.float32).potential
    assert isinstance(potential, HybridNet)
    atoms.calc = CompiledWater(potential, atoms, conservative=options.forces == "conservative")
    bonds = bonds_of_water(ase.io.read(options.start))
    dynamics = VelocityVerlet(atoms, options.time_step * units.fs)
    rows = read_rows(log)[: done // STEPS_PER_ROW]
    n_rows = round(options.picoseconds * 1e3 / options.time_step / STEPS_PER_ROW)
    for n in tqdm(range(len(rows), n_rows), initial=len(rows), total=n_rows, desc=name):
        dynamics.run(STEPS_PER_ROW)
        time = (n + 1) * STEPS_PER_ROW * options.time_step / 1e3
        longest = longest_bond(atoms, bonds)
        rows.append([time, atoms.get_total_energy(), atoms.get_temperature(), longest])
        if (n + 1) % ROWS_PER_CHECKPOINT == 0 or n + 1 == n_rows:
            save(checkpoint, atoms, (n + 1) * STEPS_PER_ROW)
            write_rows(log, rows)
    return np.array(rows)


def read_rows(log: Path) -> list[list[float]]:
    """Return the rows of a log, or none if there is no log."""
    if not log.exists():
        return []
    with log.open(newline="") as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


def write_rows(log: Path, rows: Sequence[Sequence[float]]) -> None:
    """Write the whole log."""
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([f"{value:.9g}" for value in row] for row in rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, then write the log, a plot and a summary."""
    parser = parser_of("bench.studies.nve", __doc__)
    parser.add_argument("--forces", choices=["conservative", "direct"], default="conservative",
                        help="kind of forces")  # fmt: skip
    parser.add_argument("--picoseconds", type=float, default=20.0, help="length of the run")
    parser.add_argument("--time-step", type=float, default=0.5, help="time step, in fs")
    parser.add_argument(
        "--temperature", type=float, default=300.0, help="temperature at the start, in K"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the first velocities")
    parser.add_argument("--model", default="water", help="name of the model")
    parser.add_argument("--start", type=Path, default=WATER, help="file with the atoms")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of all files")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = run(options)
    n_atoms = len(ase.io.read(options.start))
    summary = summarize(rows, n_atoms)
    name = f"nve_{options.forces}"
    (options.out / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    title = "{drift_mev_per_atom_per_ps:.2g} ± {error:.1g} meV/atom/ps".format(**summary)
    draw(rows, n_atoms, f"NVE, {options.forces} forces: {title}", options.out / f"{name}.png")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
