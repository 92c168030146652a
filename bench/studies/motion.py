"""Dynamics of crystals and melts at constant pressure, through a service."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from tqdm import tqdm

from bench.studies.crystals import CRYSTALS, Floats
from twinforce.ase import TwinForceCalculator
from twinforce.md import MDSettings, molecular_dynamics

_GRAMS_PER_AMU = 1.66053907e-24
ROWS = ("time_fs", "volume_a3", "temperature_k", "conserved_energy_ev", "force_rmse_ev_per_a")


@dataclass(frozen=True, slots=True)
class Motion:
    """The conditions of a run at constant pressure.

    Attributes:
        symbol: Symbol of the element.
        n_cells: Number of conventional cells along each axis.
        temperature_k: Temperature of the thermostat, in K.
        melted_at_k: Temperature at which the crystal is melted first, in K; 0 if it is not melted.
        expansion: Factor on the cell of the crystal before it is melted; in its original cell it
            would overheat instead of melting.
        compressibility_per_bar: Compressibility for the barostat, about that of the element.
        inner_steps: Number of inner steps M with hybrid forces.
        time_step_fs: Inner time step, in fs.
    """

    symbol: str
    n_cells: int
    temperature_k: float
    melted_at_k: float = 0.0
    expansion: float = 1.0
    compressibility_per_bar: float = 8e-6
    inner_steps: int = 8
    time_step_fs: float = 1.0


MOTIONS = {
    "Li crystal": Motion("Li", 3, 300.0),
    "Li melt": Motion("Li", 3, 600.0, melted_at_k=900.0, expansion=1.03, inner_steps=4),
    "Cu crystal": Motion("Cu", 3, 300.0, compressibility_per_bar=1e-6),
    "Cu melt": Motion(
        "Cu",
        3,
        1600.0,
        compressibility_per_bar=1e-6,
        melted_at_k=2700.0,
        expansion=1.05,
        inner_steps=4,
    ),
}


def start_of(url: str, motion: Motion) -> Atoms:
    """Return a perfect crystal, or a liquid at the temperature that melted it."""
    crystal = CRYSTALS[motion.symbol]
    atoms = bulk(motion.symbol, crystal.structure, crystal.length, cubic=True)
    atoms = atoms.repeat(motion.n_cells)
    if motion.melted_at_k:
        atoms.set_cell(motion.expansion * atoms.cell.array, scale_atoms=True)
        hot = {"ensemble": "svr", "temperature_k": motion.melted_at_k}
        move(url, atoms, settings_of(motion, "conservative", 2.0, **hot))
    return atoms


def settings_of(motion: Motion, forces: str, picoseconds: float, **changes: Any) -> MDSettings:
    """Return the settings of a run; a conservative step is as long as two inner steps."""
    step = motion.time_step_fs * (2 if forces == "conservative" else 1)
    values: dict[str, Any] = {
        "forces": forces,
        "ensemble": "npt-isotropic",
        "inner_steps": motion.inner_steps,
        "time_step_fs": step,
        "n_steps": round(1e3 * picoseconds / step),
        "temperature_k": motion.temperature_k,
        "pressure_relaxation_fs": 400.0,
        "compressibility_per_bar": motion.compressibility_per_bar,
        "seed": 11,
    }
    return MDSettings(**(values | changes))


def move(url: str, atoms: Atoms, settings: MDSettings) -> Floats:
    """Move the atoms; return `ROWS` about every 8 fs."""
    rows = []
    with TwinForceCalculator(url, model="elements6") as atoms.calc:
        for each in tqdm(molecular_dynamics(atoms, settings), desc=settings.forces):
            if settings.forces == "hybrid" or each.step % 4 == 0:
                rmse = each.disagreement.rmse if each.disagreement else np.nan
                rows.append(
                    (each.time_fs, each.volume, each.temperature_k, each.conserved_energy, rmse)
                )
    atoms.calc = None
    return np.array(rows, dtype=float)


def run_motion(
    url: str, start: Atoms, motion: Motion, forces: str, picoseconds: float, out: Path
) -> dict[str, Any]:
    """Run at constant pressure, write the rows to `out` and return a summary."""
    atoms = start.copy()
    rows = move(url, atoms, settings_of(motion, forces, picoseconds))
    moved = atoms.get_scaled_positions(wrap=False) - start.get_scaled_positions(wrap=False)
    np.savetxt(out, rows, fmt="%.8g", delimiter=",", header=",".join(ROWS), comments="")
    return summarize(rows, atoms) | {
        "rms_displacement_angstrom": float(
            np.sqrt(np.square(moved @ atoms.cell.array).sum(axis=1).mean())
        ),
        "picoseconds": picoseconds,
    }


def summarize(rows: Floats, atoms: Atoms) -> dict[str, float]:
    """Return the density, temperature and drift of a run without its first quarter.

    Errors of means are standard errors from five blocks.
    """
    kept = rows[len(rows) // 4 :]
    density = atoms.get_masses().sum() * _GRAMS_PER_AMU / (kept[:, 1] * 1e-24)
    blocks = {name: np.array_split(v, 5) for name, v in (("d", density), ("t", kept[:, 2]))}
    means = {name: np.array([block.mean() for block in each]) for name, each in blocks.items()}
    slope = np.polyfit(kept[:, 0] / 1e3, kept[:, 3], 1)[0]
    disagreement = kept[:, 4].mean()
    return {
        "density_g_per_cm3": float(density.mean()),
        "density_error_g_per_cm3": float(means["d"].std(ddof=1) / 5**0.5),
        "temperature_k": float(kept[:, 2].mean()),
        "temperature_error_k": float(means["t"].std(ddof=1) / 5**0.5),
        "conserved_energy_drift_mev_per_atom_per_ps": float(1e3 * slope / len(atoms)),
    } | (
        {}
        if np.isnan(disagreement)
        else {"force_disagreement_ev_per_angstrom": float(disagreement)}
    )
