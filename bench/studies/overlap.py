"""Dense hot lithium with `elements6`, with and without the repulsion at short distances.

    python -m bench.studies.overlap

A crystal of 54 atoms is kept at 900 K in the cell that it has at 0 K, where its atoms come closer
to each other than any in the training data. Conservative forces, Langevin dynamics, 1 fs.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.md.langevin import Langevin
from tqdm import tqdm

from bench.runner.command_line import parser_of
from bench.runner.machine import describe_machine
from bench.runner.record import RESULTS
from bench.studies.crystals import CRYSTALS
from twinforce_models import registry
from twinforce_models.potentials.hybrid_net.core import HybridCore
from twinforce_models.potentials.hybrid_net.potential import HybridNet
from twinforce_models.training.sampling import PotentialCalculator

TEMPERATURE_K = 900.0
_INTERVAL = 20


def without_repulsion(potential: HybridNet) -> HybridNet:
    """Return the potential without its repulsion, with the same weights."""
    hyperparameters = replace(potential.core.hyperparameters, repulsion_radii=())
    core = HybridCore(hyperparameters).to(potential.dtype)
    core.load_state_dict(potential.core.state_dict())
    return HybridNet(core, potential.reference_energies)


def heat(potential: HybridNet, n_steps: int, title: str) -> dict[str, Any]:
    """Return the shortest distance, energy and temperature along a run at 900 K."""
    crystal = CRYSTALS["Li"]
    atoms = bulk("Li", crystal.structure, crystal.length, cubic=True).repeat(3)
    rng = np.random.default_rng(3)
    spread = np.sqrt(2.0 * units.kB * TEMPERATURE_K / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * rng.standard_normal((len(atoms), 3)))
    atoms.calc = PotentialCalculator(potential)
    friction = 0.01 / units.fs
    dynamics = Langevin(
        atoms, units.fs, temperature_K=TEMPERATURE_K, friction=friction, fixcm=False, rng=rng
    )
    shortest, temperatures = [], []
    for _ in tqdm(range(n_steps // _INTERVAL), desc=title):
        dynamics.run(_INTERVAL)
        distances = atoms.get_all_distances(mic=True)
        shortest.append(float(distances[distances > 0].min()))
        temperatures.append(atoms.get_temperature())
    return {
        "picoseconds": n_steps * 1e-3,
        "shortest_distance_angstrom": min(shortest),
        "last_shortest_distance_angstrom": float(np.mean(shortest[-10:])),
        "temperature_k": float(np.mean(temperatures[len(temperatures) // 2 :])),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both, and write bench/results/overlap.json."""
    parser = parser_of("bench.studies.overlap", __doc__)
    parser.add_argument("--picoseconds", type=float, default=3.0, help="length of each run")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    loaded = registry.load("elements6", dtype="float32")
    assert isinstance(loaded.potential, HybridNet)
    n_steps = round(1e3 * options.picoseconds)
    found = {
        "sha256": loaded.info.sha256,
        "version": loaded.info.version,
        "machine": describe_machine(1),
        "with_repulsion": heat(loaded.potential, n_steps, "with repulsion"),
        "without_repulsion": heat(without_repulsion(loaded.potential), n_steps, "without"),
    }
    (options.out / "overlap.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
