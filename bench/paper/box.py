"""Make a cubic box of liquid water at the density of the demo, with the bundled model.

    python -m bench.paper.box --molecules 21 --output bench/paper/systems/water21.xyz

The molecules start on a lattice, are optimized on conservative forces, and then move at 400 K and
at 300 K with multiple time stepping (M = 4, SVR, τ = 100 fs). The file holds the last state with
its velocities, and says how it was made.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.optimize import FIRE

from bench.runner.command_line import parser_of
from bench.runner.processes import running_service
from bench.runner.systems import WATER
from twinforce import Client
from twinforce.ase import DirectForcesWarning, ForceDisagreementWarning, TwinForceCalculator
from twinforce.assess import Progress
from twinforce.md import MDSettings, draw_velocities, molecular_dynamics

TEMPERATURES_K = (400.0, 300.0)
_N_OPTIMIZATION_STEPS = 300


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the box and write its file."""
    parser = parser_of("bench.paper.box", __doc__)
    parser.add_argument("--molecules", type=int, default=21, help="number of molecules")
    parser.add_argument("--picoseconds", type=float, default=5.0, help="time at each temperature")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    parser.add_argument("--output", type=Path, required=True, help="file of the box")
    given = parser.parse_args(arguments)
    atoms = lattice(given.molecules, edge_of(given.molecules), given.seed)
    with running_service("--n-threads=1", "--compile=off") as (_, url), Client(url) as client:
        made_with = equilibrate(atoms, client, given.picoseconds, given.seed)
    atoms.wrap()
    atoms.info["made"] = (
        f"python -m bench.paper.box --molecules {given.molecules} --picoseconds "
        f"{given.picoseconds:g} --seed {given.seed}, with {made_with}"
    )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(given.output, atoms, columns=["symbols", "positions", "momenta"])


def edge_of(n_molecules: int, reference: Path = WATER) -> float:
    """Return the edge of a cube of water at the density of the reference, in Å."""
    atoms = ase.io.read(reference)
    n_reference = atoms.get_chemical_symbols().count("O")
    return float((atoms.get_volume() * n_molecules / n_reference) ** (1 / 3))


def lattice(n_molecules: int, edge: float, seed: int) -> Atoms:
    """Return molecules in random orientations, on random sites of a cubic lattice."""
    generator = np.random.default_rng(seed)
    n_sites = int(np.ceil(n_molecules ** (1 / 3) - 1e-9))
    grid = np.stack(np.meshgrid(*3 * [np.arange(n_sites)], indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = generator.permutation(len(grid))[:n_molecules]
    atoms = Atoms(cell=np.eye(3) * edge, pbc=True)
    for site in grid[np.sort(chosen)]:
        each = molecule("H2O")
        each.euler_rotate(*generator.uniform(0, 360, 3))
        each.positions += (site + 0.5) * edge / n_sites - each.get_center_of_mass()
        atoms += each
    return atoms


def equilibrate(atoms: Atoms, client: Client, picoseconds: float, seed: int) -> str:
    """Move the atoms to equilibrium in place; return the name and the hash of the model."""
    settings = MDSettings(
        forces="hybrid",
        inner_steps=4,
        ensemble="svr",
        relaxation_fs=100.0,
        n_steps=round(picoseconds * 2e3),
        time_step_fs=0.5,
        seed=seed,
    )
    with warnings.catch_warnings(), TwinForceCalculator(client) as atoms.calc:
        warnings.simplefilter("ignore", DirectForcesWarning)
        warnings.simplefilter("ignore", ForceDisagreementWarning)
        with FIRE(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=0.3, steps=_N_OPTIMIZATION_STEPS)
        for temperature_k in TEMPERATURES_K:
            draw_velocities(atoms, temperature_k, np.random.default_rng(seed))
            with Progress().bar(f"{temperature_k:g} K", settings.n_steps) as bar:
                for each in molecular_dynamics(
                    atoms, replace(settings, temperature_k=temperature_k)
                ):
                    bar.update(each.step - bar.n)
    atoms.calc = None
    info = client.model()
    return f"{info.name} {info.version} ({info.sha256[:12]})"


if __name__ == "__main__":
    main()
