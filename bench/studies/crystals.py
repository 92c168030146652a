"""Elastic constants of cubic crystals, from the labels of strained systems and from a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import GPa
from numpy.typing import NDArray

from twinforce_models.potential import Potential
from twinforce_models.prediction import predict
from twinforce_models.training.dataset import read_examples, to_system, with_stress_offsets

Floats = NDArray[np.float64]
AXES, SHEARS = ((0, 0), (1, 1), (2, 2)), ((1, 2), (0, 2), (0, 1))


@dataclass(frozen=True, slots=True)
class Crystal:
    """A cubic crystal whose strained cells are in the data.

    Attributes:
        structure: Name of the structure for `ase.build.bulk`.
        length: Edge of the conventional cell without strain, in Å.
        n_cells: Number of conventional cells along each axis of the strained systems.
        max_strain: Largest strain of systems in the fit.
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


def strain_of(example: Atoms, length: float) -> Floats:
    """Return the symmetric strain of a cell relative to a cube, shape [3, 3]."""
    deformation = example.cell.array / length
    _, stretches, axes = np.linalg.svd(deformation)
    strain: Floats = (axes.T * stretches) @ axes - np.eye(3)
    return strain


def strained(examples: Sequence[Atoms], symbol: str, crystal: Crystal) -> list[Atoms]:
    """Return the strained perfect crystals among the examples, within `max_strain`."""
    perfect = bulk(symbol, crystal.structure, crystal.length, cubic=True)
    perfect = perfect.repeat(crystal.n_cells)
    sites_per_edge = 4 if crystal.structure == "diamond" else 2
    chosen = []
    for example in examples:
        if set(example.get_chemical_symbols()) != {symbol} or len(example) != len(perfect):
            continue
        sites = example.get_scaled_positions() * crystal.n_cells * sites_per_edge
        offsets = sites - sites[0] - np.round(sites - sites[0])
        is_perfect = np.abs(offsets).max() * crystal.length / sites_per_edge < 0.08
        strain = strain_of(example, crystal.length * crystal.n_cells)
        if is_perfect and np.abs(strain).max() < crystal.max_strain:
            chosen.append(example)
    return chosen


def fit_elastic(strains: Floats, stresses: Floats, length: float) -> dict[str, float]:
    """Return the lattice constant and the elastic constants from stresses under strain.

    Stresses are fitted by all terms of cubic symmetry that are linear in the strain, and by
    squares and cubes of its largest component.

    Args:
        strains: Shape [n, 3, 3].
        stresses: Shape [n, 3, 3], in eV/Å³.
        length: Edge of the cubic cell without strain, in Å.
    """
    along, across, shear = [], [], []
    for strain, stress in zip(strains, stresses / GPa, strict=True):
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
            component = max(SHEARS, key=lambda at: size[at])
            shear.append((strain[component], stress[component]))
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
    """Return the slope and the value at zero of a fitted cubic polynomial."""
    x, y = np.array(points).T
    coefficients = np.polynomial.polynomial.polyfit(x, y, 3)
    return float(coefficients[1]), float(coefficients[0])


def stress_excess(examples: Sequence[Atoms], symbol: str, crystal: Crystal) -> dict[str, float]:
    """Return by how much labels of the stress exceed the derivative of those of the energy.

    For cells strained along one axis by ε, V σ and (1 + ε) dE/dε are the same unless the stress
    has an error, such as the Pulay stress of too few plane waves. E(ε) is a fitted polynomial: of
    degree 5, or 3 for strains below 5%. The outer sixth of the strains, where its slope is poor, is
    left out.

    Returns:
        The mean of V σ - (1 + ε) dE/dε per atom, in eV, and its standard deviation.
    """
    length, points = crystal.length * crystal.n_cells, []
    for example in strained(examples, symbol, replace(crystal, max_strain=0.3)):
        strain = strain_of(example, length)
        axis = int(np.abs(np.diagonal(strain)).argmax())
        size = strain[axis, axis]
        strain[axis, axis] = 0.0
        if np.abs(strain).max() < 1e-3:
            stress = example.get_stress(voigt=False)[axis, axis]
            values = (example.get_potential_energy(), example.get_volume() * stress)
            points.append((size, *np.array(values) / len(example)))
    size, energy, work = np.array(points).T
    fit = np.polynomial.Polynomial.fit(size, energy, 5 if np.ptp(size) > 0.1 else 3)
    excess = (work - (1 + size) * fit.deriv()(size))[np.abs(size) < 5 / 6 * np.abs(size).max()]
    return {"mean_ev_per_atom": float(excess.mean()), "std_ev_per_atom": float(excess.std())}


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


def compare_crystals(potential: Potential, data: Path, offsets: Sequence[float]) -> dict[str, Any]:
    """Return the constants of each crystal from the labels and from both stresses of the model.

    Args:
        potential: Model of the elements of `CRYSTALS`.
        data: Extended XYZ file with the labels.
        offsets: The `stress_offsets` of the recipe of the model, subtracted from the labels.
    """
    published, found = read_examples(data), {}
    examples = with_stress_offsets(published, sorted(potential.elements), offsets)
    for symbol, crystal in CRYSTALS.items():
        chosen = strained(examples, symbol, crystal)
        length = crystal.length * crystal.n_cells
        strains = np.array([strain_of(example, length) for example in chosen])
        stresses = {"labels": np.array([example.get_stress(voigt=False) for example in chosen])}
        for kind in ("conservative_stress", "direct_stress"):
            systems = [to_system(example) for example in chosen]
            predictions = [predict(potential, [system], {kind})[0] for system in systems]
            stresses[kind] = np.array([getattr(each, kind) for each in predictions])
        found[symbol] = {
            name: fit_elastic(strains, values, crystal.length) for name, values in stresses.items()
        } | {
            "relaxed_lattice_constant_angstrom": relax(potential, symbol, crystal),
            "excess_of_published_stress": stress_excess(published, symbol, crystal),
        }
    return found
