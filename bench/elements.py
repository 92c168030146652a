"""What `elements6` says of six crystals, beside its labels, and of crystals and melts in motion.

python -m bench.elements --data path/to/mlearn6.xyz

Elastic constants are derivatives of the stress by strain at the cell that the data are strained
from, ions clamped, from one polynomial fit for labels and predictions alike. Dynamics at constant
pressure run through a service, on hybrid forces and on conservative ones. What is done already is
not done again.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from numpy.typing import NDArray
from tqdm import tqdm

from bench.machine import ROOT, describe_machine
from twinforce.ase import TwinForceCalculator
from twinforce.md import MDSettings, molecular_dynamics
from twinforce_models import registry
from twinforce_models.potential import Potential, predict
from twinforce_models.training.dataset import read_frames
from twinforce_models.training.report import to_system
from twinforce_service.main import run_in_thread
from twinforce_service.settings import Settings

Floats = NDArray[np.float64]
_GRAMS_PER_AMU = 1.66053907e-24
AXES, SHEARS = ((0, 0), (1, 1), (2, 2)), ((1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, slots=True)
class Crystal:
    """A cubic crystal as the data strain it.

    Attributes:
        structure: As `ase.build.bulk` names it.
        length: Of the conventional cell that strains start from, in Å.
        n_cells: Conventional cells along each axis in the strained systems.
        max_strain: Of systems that the fit takes.
    """

    structure: str
    length: float
    n_cells: int
    max_strain: float = 0.045


CRYSTALS = {
    "Li": Crystal("bcc", 3.427, 1),
    "Mo": Crystal("bcc", 9.503 / 3, 3),
    "Ni": Crystal("fcc", 10.524 / 3, 3),
    "Cu": Crystal("fcc", 10.849 / 3, 3),
    "Si": Crystal("diamond", 10.937 / 2, 2),
    "Ge": Crystal("diamond", 11.508 / 2, 2),
}


@dataclass(frozen=True, slots=True)
class Motion:
    """A run at constant pressure.

    Attributes:
        symbol: Of the element.
        n_cells: Conventional cells along each axis.
        temperature_k: Held.
        melted_at_k: Kept at this temperature first, until it is a liquid; 0: it stays a crystal.
        time_step_fs: Inner one.
    """

    symbol: str
    n_cells: int
    temperature_k: float
    melted_at_k: float = 0.0
    time_step_fs: float = 1.0


MOTIONS = {
    "Li crystal": Motion("Li", 3, 300.0),
    "Li melt": Motion("Li", 3, 700.0, melted_at_k=1500.0),
    "Cu crystal": Motion("Cu", 3, 300.0),
    "Cu melt": Motion("Cu", 3, 1600.0, melted_at_k=3000.0),
}


def strain_of(frame: Atoms, length: float) -> Floats:
    """Return the symmetric strain of a cell relative to a cube, shape [3, 3]."""
    deformation = frame.cell.array / length
    _, stretches, axes = np.linalg.svd(deformation)
    strain: Floats = (axes.T * stretches) @ axes - np.eye(3)
    return strain


def strained(frames: Sequence[Atoms], symbol: str, crystal: Crystal) -> list[Atoms]:
    """Return the strained perfect crystals among the frames, within `max_strain`."""
    perfect = bulk(symbol, crystal.structure, crystal.length, cubic=True)
    perfect = perfect.repeat(crystal.n_cells)
    places = 4 if crystal.structure == "diamond" else 2
    chosen = []
    for frame in frames:
        if set(frame.get_chemical_symbols()) != {symbol} or len(frame) != len(perfect):
            continue
        steps = frame.get_scaled_positions() * crystal.n_cells * places
        offsets = steps - steps[0] - np.round(steps - steps[0])
        is_perfect = np.abs(offsets).max() * crystal.length / places < 0.08
        strain = strain_of(frame, crystal.length * crystal.n_cells)
        if is_perfect and np.abs(strain).max() < crystal.max_strain:
            chosen.append(frame)
    return chosen


def fit_elastic(strains: Floats, stresses: Floats, length: float) -> dict[str, float]:
    """Return lattice constant and elastic constants that explain stresses under strain.

    Stresses are fitted by all terms of cubic symmetry that are linear in the strain, and by
    squares and cubes of its largest component.

    Args:
        strains: Shape [n, 3, 3].
        stresses: Shape [n, 3, 3], in eV/Å³.
        length: Of the unstrained cubic cell, in Å.
    """
    along, across, shear = [], [], []
    for strain, stress in zip(strains, stresses / units.GPa, strict=True):
        diagonal, size = np.diagonal(strain), np.abs(strain)
        if (
            size.max() == size[AXES[0]]
            or size.max() == size[AXES[1]]
            or size.max() == size[AXES[2]]
        ):
            n = int(np.abs(diagonal).argmax())
            along.append((diagonal[n], stress[n, n]))
            across += [(diagonal[n], stress[m, m]) for m in range(3) if m != n]
        else:
            place = max(SHEARS, key=lambda at: size[at])
            shear.append((strain[place], stress[place]))
    (c11, at_rest), (c12, _), (c44, _) = map(_slope, (along, across, shear))
    bulk_modulus = (c11 + 2 * c12) / 3
    return {
        "lattice_constant_angstrom": length * (1 - at_rest / (3 * bulk_modulus)),
        "c11_gpa": c11,
        "c12_gpa": c12,
        "c44_gpa": c44 / 2,
        "bulk_modulus_gpa": bulk_modulus,
        "n_systems": float(len(strains)),
    }


def _slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope and the value at zero of a cubic polynomial."""
    x, y = np.array(points).T
    coefficients = np.polynomial.polynomial.polyfit(x, y, 3)
    return float(coefficients[1]), float(coefficients[0])


def relax(potential: Potential, symbol: str, crystal: Crystal) -> float:
    """Return the lattice constant at which the conservative stress vanishes, in Å."""
    lengths = [crystal.length, 1.005 * crystal.length]
    stresses = [_trace(potential, symbol, crystal, length) for length in lengths]
    while abs(lengths[-1] - lengths[-2]) > 1e-6:
        slope = (stresses[-1] - stresses[-2]) / (lengths[-1] - lengths[-2])
        lengths.append(lengths[-1] - stresses[-1] / slope)
        stresses.append(_trace(potential, symbol, crystal, lengths[-1]))
    return lengths[-1]


def _trace(potential: Potential, symbol: str, crystal: Crystal, length: float) -> float:
    atoms = bulk(symbol, crystal.structure, length, cubic=True)
    (prediction,) = predict(potential, [to_system(atoms)], {"conservative_stress"})
    return float(np.trace(np.asarray(prediction.conservative_stress)))


def compare_crystals(potential: Potential, data: Path) -> dict[str, Any]:
    """Return constants of each crystal: from the labels, and from both stresses of the model."""
    frames, found = read_frames(data), {}
    for symbol, crystal in CRYSTALS.items():
        chosen = strained(frames, symbol, crystal)
        length = crystal.length * crystal.n_cells
        strains = np.array([strain_of(frame, length) for frame in chosen])
        stresses = {"labels": np.array([frame.get_stress(voigt=False) for frame in chosen])}
        for kind in ("conservative_stress", "direct_stress"):
            systems = [to_system(frame) for frame in chosen]
            said = [predict(potential, [system], {kind})[0] for system in systems]
            stresses[kind] = np.array([getattr(each, kind) for each in said])
        found[symbol] = {
            name: fit_elastic(strains, values, crystal.length) for name, values in stresses.items()
        } | {"relaxed_lattice_constant_angstrom": relax(potential, symbol, crystal)}
    return found


def run_motion(
    url: str, motion: Motion, forces: str, picoseconds: float, out: Path
) -> dict[str, Any]:
    """Return what a run at constant pressure showed; its rows go to `out`."""
    crystal = CRYSTALS[motion.symbol]
    atoms = bulk(motion.symbol, crystal.structure, crystal.length, cubic=True)
    atoms = atoms.repeat(motion.n_cells)
    shared = {
        "ensemble": "npt-isotropic",
        "inner_steps": 8,
        "time_step_fs": motion.time_step_fs,
        "pressure_relaxation_fs": 400.0,
        "compressibility_per_bar": 1e-6 if motion.symbol == "Cu" else 8e-6,
    }
    with TwinForceCalculator(url, model="elements6") as atoms.calc:
        if motion.melted_at_k:
            melting = MDSettings(
                forces="hybrid", temperature_k=motion.melted_at_k, n_steps=2000, seed=7, **shared
            )
            for _ in tqdm(molecular_dynamics(atoms, melting), desc="melting", total=251):
                pass
        start = atoms.get_scaled_positions(wrap=False)
        settings = MDSettings(
            forces=forces,
            temperature_k=motion.temperature_k,
            n_steps=round(1e3 * picoseconds / motion.time_step_fs),
            seed=11,
            **shared,
        )
        rows = []
        for each in tqdm(molecular_dynamics(atoms, settings), desc=f"{motion.symbol} {forces}"):
            if each.step % 8 == 0:
                apart = each.disagreement.rmse if each.disagreement else np.nan
                row = (each.time_fs, each.volume, each.temperature_k, each.conserved_energy, apart)
                rows.append(row)
        moved = (atoms.get_scaled_positions(wrap=False) - start) @ atoms.cell.array
    np.savetxt(out, rows, fmt="%.8g", delimiter=",", header=",".join(ROWS), comments="")
    return summarize(np.array(rows, dtype=float), atoms) | {
        "rms_displacement_angstrom": float(np.sqrt(np.square(moved).sum(axis=1).mean())),
        "picoseconds": picoseconds,
    }


ROWS = ("time_fs", "volume_a3", "temperature_k", "conserved_energy_ev", "force_rmse_ev_per_a")


def summarize(rows: Floats, atoms: Atoms) -> dict[str, float]:
    """Return density, temperature and drift of a run, after its first quarter.

    Errors of means are those of five blocks.
    """
    kept = rows[len(rows) // 4 :]
    density = atoms.get_masses().sum() * _GRAMS_PER_AMU / (kept[:, 1] * 1e-24)
    blocks = {name: np.array_split(v, 5) for name, v in (("d", density), ("t", kept[:, 2]))}
    means = {name: np.array([block.mean() for block in each]) for name, each in blocks.items()}
    slope = np.polyfit(kept[:, 0] / 1e3, kept[:, 3], 1)[0]
    apart = kept[:, 4].mean()
    return {
        "density_g_per_cm3": float(density.mean()),
        "density_error_g_per_cm3": float(means["d"].std(ddof=1) / 5**0.5),
        "temperature_k": float(kept[:, 2].mean()),
        "temperature_error_k": float(means["t"].std(ddof=1) / 5**0.5),
        "conserved_energy_drift_mev_per_atom_per_ps": float(1e3 * slope / len(atoms)),
    } | ({} if np.isnan(apart) else {"force_disagreement_ev_per_angstrom": float(apart)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet, and write bench/results/elements.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.elements", description=__doc__)
    parser.add_argument("--data", type=Path, help="extended XYZ; without it, dynamics only")
    parser.add_argument("--model", default="elements6", help="its name, or its folder")
    parser.add_argument("--picoseconds", type=float, default=4.0, help="of each run")
    parser.add_argument("--only", nargs="*", default=list(MOTIONS), help="names of runs")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(arguments)
    path = options.out / "elements.json"
    loaded = registry.load(options.model, device="cpu", dtype="float64")
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("sha256") != loaded.info.sha256:
        found = {"sha256": loaded.info.sha256, "machine": describe_machine(1), "dynamics": {}}
    if options.data is not None:
        found["crystals"] = compare_crystals(loaded.potential, options.data)
        path.write_text(json.dumps(found, indent=2) + "\n")
    settings = Settings(
        rest_port=0, grpc_port=0, n_threads=1, water=False, model={"elements6": options.model}
    )
    with run_in_thread(settings) as server:
        for name in options.only:
            for forces in ("hybrid", "conservative"):
                label = f"{name}, {forces}"
                if label in found["dynamics"]:
                    continue
                rows = options.out / f"elements_{name.replace(' ', '_')}_{forces}.csv"
                found["dynamics"][label] = run_motion(
                    server.grpc_url, MOTIONS[name], forces, options.picoseconds, rows
                )
                path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
