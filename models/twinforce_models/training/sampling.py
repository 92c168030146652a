"""Systems that a model meets in its own dynamics, with its own energies and forces as labels.

Labels of this kind are free and without noise. They say nothing new about nature; they tell a
model with two kinds of forces where these differ, at the places where a simulation will go.
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
from twinforce_models.training.dataset import Group
from twinforce_proto import System

_OUTPUTS = ("energy", "conservative_forces")


class PotentialCalculator(Calculator):  # type: ignore[misc]
    """A potential in this process, as ASE sees it: energy and conservative forces."""

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
        """Evaluate both."""
        super().calculate(atoms, properties, system_changes)
        a = self.atoms
        system = System(a.numbers, a.positions, a.cell.array, a.pbc)
        (found,) = predict(self.potential, [system], _OUTPUTS)
        self.results = {"energy": found.energy, "forces": found.conservative_forces}


def sampled_examples(
    potential: Potential, starts: Sequence[ase.Atoms], recipe: Recipe, folder: Path
) -> list[Group]:
    """Return what the potential meets and labels, each run kept in `folder` as it ends.

    Args:
        potential: That moves and labels.
        starts: Runs begin at some of the calmer half of them.
        recipe: Its `sampling` and seed say how.
        folder: A later call with the same recipe goes on from what is there.

    Returns:
        Systems, each with its twin if the recipe wants twins.

    Raises:
        ValueError: If the folder holds what another sampling made.
    """
    assert recipe.sampling is not None
    place = folder / "sampled"
    place.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps(asdict(recipe.sampling) | {"seed": recipe.seed}, sort_keys=True)
    made_by = place / "sampling.json"
    if made_by.exists() and made_by.read_text() != wanted:
        raise ValueError(f"{place} holds systems that another sampling made")
    made_by.write_text(wanted)
    starts = calmer_half(starts)
    chosen = np.random.default_rng(recipe.seed).permutation(len(starts))
    n_together = 2 if recipe.sampling.n_steps_to_twin else 1
    groups: list[Group] = []
    for n in tqdm(range(recipe.sampling.n_runs), desc="sampling"):
        path = place / f"run{n}.traj"
        if not path.exists():
            start = starts[chosen[n % len(starts)]]
            run = sample(potential, start, recipe.sampling, n, recipe.seed)
            partial = path.with_suffix(".partial")
            ase.io.write(partial, run, format="traj")
            partial.replace(path)
        examples = ase.io.read(path, ":")
        groups += zip(*[iter(examples)] * n_together, strict=True)
    return groups


def calmer_half(examples: Sequence[ase.Atoms]) -> list[ase.Atoms]:
    """Return those with the smaller forces, in their order: hot ones would not last a run."""
    squares = [float(np.square(example.get_forces()).mean()) for example in examples]
    median = float(np.median(squares))
    return [example for example, square in zip(examples, squares, strict=True) if square <= median]


def sample(
    potential: Potential, start: ase.Atoms, sampling: Sampling, n: int, seed: int
) -> list[ase.Atoms]:
    """Return the labelled systems of run `n`, each followed by its twin if there are twins."""
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
    """Return a copy that keeps its energy and forces."""
    example = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    example.calc = SinglePointCalculator(
        example, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
    )
    return example
