"""Columns of a file that ASE keeps but does not use: velocities and masses of other programs."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

VelocityUnit = Literal["A/fs", "A/ps", "nm/ps", "bohr/au", "ase"]

# Names that belong to one program, and its unit. ASE's own momenta need no conversion.
_PROGRAMS: Mapping[str, tuple[str, VelocityUnit]] = {
    "vel": ("GPUMD", "A/fs"),
    "velo": ("QUIP", "A/fs"),
}
_MOMENTA = ("momentum", "momenta")
# Names that mean velocities even if the column has another shape, which is refused.
_VELOCITIES = ("v", "vel", "velo", "velocity", "velocities")
_COMPONENTS = ("vx", "vy", "vz")

# Columns of text files have few digits.
_TOLERANCE = 1e-3
# Hotter than this, the unit is probably another one.
_HOTTEST_K = 10_000.0
# Masses further than this from those of the elements are probably in another unit.
_LARGEST_MASS_RATIO = 20.0

_ADVICE = (
    "give the unit of velocities with --velocity-units, rename the column, or draw new velocities "
    "with --new-velocities"
)


def take_velocities(atoms: Any, unit: VelocityUnit | None = None) -> str | None:
    """Move velocities in columns of other names into the momenta of atoms.

    The names `vel` and `velo` are those of GPUMD and QUIP, in Å/fs. Others, such as `velocities`,
    are written in different units by different programs.

    Args:
        atoms: Atoms as ASE reads them; such columns are removed.
        unit: Unit of these columns; None means that of the program that uses the name.

    Returns:
        The source of the velocities; None if there are none.

    Raises:
        ValueError: The unit is not clear, two columns disagree, or a unit is given for none.
    """
    columns = _velocity_columns(atoms)
    if unit and not columns:
        found = "momenta, which are in ASE's unit" if atoms.has("momenta") else "none"
        raise ValueError(f"--velocity-units: expected a column of velocities, got {found}")
    if atoms.has("momenta"):
        for name, column in columns.items():
            _check_agreement(name, column, atoms, unit)
        drop_velocities(atoms, momenta=False)
        return "momenta of the file"
    if not columns:
        return None
    (name, column), *others = columns.items()
    program, own_unit = _PROGRAMS.get(name.lower(), ("", None))
    chosen = unit or own_unit
    if chosen is None or name.lower() in _MOMENTA:
        raise ValueError(f"column {name}: expected velocities in a known unit; {_ADVICE}")
    momenta = atoms.get_masses()[:, None] * column * _factor(chosen)
    atoms.set_momenta(momenta, apply_constraint=False)
    for other, values in others:
        _check_agreement(other, values, atoms, unit)
    if unit is None:
        _check_temperature(name, chosen, atoms)
    drop_velocities(atoms, momenta=False)
    reason = "as given" if unit else f"as {program} writes them"
    return f"column {name}, taken as {_symbol(chosen)}, {reason}"


def drop_velocities(atoms: Any, *, momenta: bool = True) -> bool:
    """Remove velocities under any name, and momenta; return True if there were some."""
    found = _array_names(atoms)
    if momenta and atoms.has("momenta"):
        found.append("momenta")
    for name in found:
        atoms.set_array(name, None)
    return bool(found)


def take_masses(atoms: Any) -> str | None:
    """Use a column `mass`, as GPUMD writes it, for the masses; return what was done.

    Raises:
        ValueError: The column is not in amu, or disagrees with the column `masses`.
    """
    masses = atoms.arrays.get("mass")
    if masses is None or masses.ndim != 1:
        return "masses of the file" if atoms.has("masses") else None
    from ase.data import atomic_masses

    if atoms.has("masses") and not np.allclose(atoms.arrays["masses"], masses, rtol=_TOLERANCE):
        raise ValueError("columns mass and masses: expected equal values, got different ones")
    ratios = np.asarray(masses, float) / atomic_masses[atoms.numbers]
    likely = (ratios > 1.0 / _LARGEST_MASS_RATIO) & (ratios < _LARGEST_MASS_RATIO)
    if not likely.all():
        index = int(np.argmin(likely))
        raise ValueError(
            f"column mass: expected masses in amu, got {masses[index]:g} for atom {index} "
            f"({atoms.symbols[index]})"
        )
    atoms.set_array("mass", None)
    atoms.set_masses(masses)
    return "masses of the column mass, taken as amu"


def _array_names(atoms: Any) -> list[str]:
    names = [name for name in atoms.arrays if _means_velocities(name, atoms.arrays[name])]
    has_components = all(name in atoms.arrays for name in _COMPONENTS)
    return names + [*_COMPONENTS] * has_components


def _means_velocities(name: str, column: NDArray[Any]) -> bool:
    lower = name.lower()
    if lower in _VELOCITIES:
        return True
    is_vector = column.ndim == 2 and column.shape[1] == 3
    is_momentum = lower in _MOMENTA and name != "momenta"
    return is_momentum or (is_vector and lower.startswith("vel"))


def _velocity_columns(atoms: Any) -> dict[str, NDArray[np.float64]]:
    names = _array_names(atoms)
    columns = {name: atoms.arrays[name] for name in names if name not in _COMPONENTS}
    if _COMPONENTS[0] in names:
        parts = [atoms.arrays[name] for name in _COMPONENTS]
        columns["vx, vy, vz"] = np.column_stack(parts)
    for name, column in columns.items():
        if column.shape != (len(atoms), 3) or not np.isfinite(column.astype(float)).all():
            raise ValueError(f"column {name}: expected three finite numbers for each atom")
    return {name: column.astype(float) for name, column in columns.items()}


def _check_agreement(
    name: str, column: NDArray[np.float64], atoms: Any, unit: VelocityUnit | None
) -> None:
    """Check that a column has the velocities of atoms, in one of the units that it may have."""
    expected = atoms.get_velocities()
    if name.lower() in _MOMENTA:
        column, unit = column / atoms.get_masses()[:, None], "ase"
    _, own_unit = _PROGRAMS.get(name.lower(), ("", None))
    chosen = unit or own_unit
    for each in [chosen] if chosen else get_args(VelocityUnit):
        difference = np.abs(column * _factor(each) - expected)
        if difference.max() <= _TOLERANCE * np.abs(expected).max():
            return
    raise ValueError(
        f"column {name}: expected the same velocities as in the other columns, got others; "
        "remove one of them, or draw new velocities with --new-velocities"
    )


def _check_temperature(name: str, unit: VelocityUnit, atoms: Any) -> None:
    from ase import units

    temperature = atoms.get_kinetic_energy() / (1.5 * len(atoms) * units.kB)
    if temperature > _HOTTEST_K:
        raise ValueError(
            f"column {name}: expected velocities in {_symbol(unit)}, but then the temperature is "
            f"{temperature:.0f} K; {_ADVICE}"
        )


def _factor(unit: VelocityUnit) -> float:
    """Return a unit of velocity in ASE's."""
    from ase import units

    factors: dict[VelocityUnit, float] = {
        "A/fs": 1.0 / units.fs,
        "A/ps": 1e-3 / units.fs,
        "nm/ps": 1e-2 / units.fs,
        "bohr/au": units.Bohr / units._aut / units.s,
        "ase": 1.0,
    }
    return factors[unit]


def _symbol(unit: VelocityUnit) -> str:
    return {"ase": "ASE's unit", "bohr/au": "bohr per atomic unit of time"}.get(
        unit, unit.replace("A/", "Å/")
    )
