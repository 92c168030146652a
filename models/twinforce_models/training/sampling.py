"""Systems from the dynamics of a model, with its own energies and forces as labels.

Such labels are cheap and without noise. They add no information about the physics, but they train
both kinds of forces to agree where simulations go.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import ase
import ase.io
import numpy as np
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from tqdm import tqdm

from twinforce_models.potential import Potential
from twinforce_models.prediction import predict
from twinforce_models.training.config import Recipe, Sampling
from twinforce_models.training.dataset import Group, to_system

_OUTPUTS = ("energy", "conservative_forces")


class PotentialCalculator(Calculator):  # type: ignore[misc]
    """An ASE calculator for a potential in this process: energy and conservative forces."""

    implemented_properties: ClassVar = ["energy", "forces"]

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the energy and the conservative forces."""
        super().calculate(atoms, properties, system_changes)
        (prediction,) = predict(self.potential, [to_system(self.atoms)], _OUTPUTS)
        self.results = {"energy": prediction.energy, "forces": prediction.conservative_forces}


def sampled_examples(
    potential: Potential, starts: Sequence[ase.Atoms], recipe: Recipe, folder: Path
) -> list[Group]:
    """Return labeled systems from dynamics; each run is written to `folder` when it ends.

    Args:
        potential: Potential that moves and labels the systems.
        starts: Systems; runs start from the half of them with the smaller forces.
        recipe: Recipe with the settings of the sampling and the seed.
        folder: Folder of all output. A later call with the same settings reuses its runs.

    Returns:
        Systems, each with its twin if the settings ask for twins.

    Raises:
        ValueError: If the folder has runs with other settings.
    """
    assert recipe.sampling is not None
    runs = folder / "sampled"
    runs.mkdir(parents=True, exist_ok=True)
    settings = json.dumps(asdict(recipe.sampling) | {"seed": recipe.seed}, sort_keys=True)
    settings_file = runs / "sampling.json"
    if settings_file.exists() and settings_file.read_text() != settings:
        raise ValueError(f"{runs}: expected runs with these settings, got runs with other settings")
    settings_file.write_text(settings)
    starts = half_with_smaller_forces(starts)
    chosen = np.random.default_rng(recipe.seed).permutation(len(starts))
    group_size = 2 if recipe.sampling.n_steps_to_twin else 1
    groups: list[Group] = []
    for n in tqdm(range(recipe.sampling.n_runs), desc="sampling"):
        path = runs / f"run{n}.traj"
        if not path.exists():
            start = starts[chosen[n % len(starts)]]
            run = sample(potential, start, recipe.sampling, n, recipe.seed)
            partial = path.with_suffix(".partial")
            ase.io.write(partial, run, format="traj")
            partial.replace(path)
        examples = ase.io.read(path, ":")
        groups += zip(*[iter(examples)] * group_size, strict=True)
    return groups


def half_with_smaller_forces(examples: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """Return the half of the examples with the smaller forces, in their order.

    Dynamics from examples with large forces can become unstable.
    """
    squares = [float(np.square(example.get_forces()).mean()) for example in examples]
    median = float(np.median(squares))
    return [example for example, square in zip(examples, squares, strict=True) if square <= median]


def sample(
    potential: Potential, start: ase.Atoms, sampling: Sampling, n: int, seed: int
) -> list[ase.Atoms]:
    """Return the labeled systems of run `n`, each followed by its twin if there are twins."""
    rng = np.random.default_rng([seed, n])
    temperature = sampling.temperatures_k[n % len(sampling.temperatures_k)]
    atoms = ase.Atoms(start.numbers, start.positions, cell=start.cell, pbc=start.pbc)
    spread = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * rng.standard_normal((len(atoms), 3)))
    atoms.calc = PotentialCalculator(potential)
    dynamics = Langevin(
        atoms,
        sampling.time_step_fs * units.fs,
        temperature_K=temperature,
        friction=1.0 / (sampling.relaxation_fs * units.fs),
        fixcm=False,
        rng=rng,
    )
    dynamics.run(sampling.n_settling_steps)
    kept = []
    for _ in range(sampling.n_systems_per_run):
        dynamics.run(sampling.n_steps_between)
        kept.append(labeled(atoms))
        if sampling.n_steps_to_twin:
            dynamics.run(sampling.n_steps_to_twin)
            kept.append(labeled(atoms))
    return kept


def labeled(atoms: ase.Atoms) -> ase.Atoms:
    """Return a copy with the energy and forces as labels."""
    example = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    example.calc = SinglePointCalculator(
        example, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
    )
    return example
