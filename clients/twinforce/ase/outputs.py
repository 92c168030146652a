"""The outputs to request from a service for properties that ASE requests."""

from collections.abc import Collection, Mapping
from typing import Any

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from twinforce.ase.saved import check_per_atom
from twinforce_proto import OUTPUTS, STRESSES, ModelInfo, checks, parse_outputs


def check_parameters(parameters: Mapping[str, Any], implemented: Collection[str]) -> None:
    """Check the parameters of a calculator.

    Args:
        parameters: Parameters to check.
        implemented: Names of the properties of ASE that there are.

    Raises:
        ValueError: The kind of forces, or the place to save things in, is unknown.
        UnsupportedOutputError: An extra output is unknown.
        PropertyNotImplementedError: A property to compute always is unknown.
    """
    if parameters.get("force_kind", "direct") not in ("conservative", "direct"):
        got = parameters["force_kind"]
        raise ValueError(f"force_kind: expected 'conservative' or 'direct', got {got!r}")
    if parameters.get("extra_outputs"):
        parse_outputs(parameters["extra_outputs"])
    for name in parameters.get("always", ()):
        if name not in implemented:
            expected = ", ".join(implemented)
            raise PropertyNotImplementedError(f"always: expected some of {expected}, got {name!r}")
    if parameters.get("autosave") is not None:
        check_per_atom(parameters["autosave"])


def outputs_for(properties: Collection[str], parameters: Mapping[str, Any]) -> frozenset[str]:
    """Return the outputs from which properties follow, and the energy, which comes with them.

    Args:
        properties: Names of ASE, or of outputs.
        parameters: Parameters of the calculator.
    """
    kind = parameters["force_kind"]
    outputs = {"energy"}.union(properties).intersection(OUTPUTS)
    if "energies" in properties:
        outputs.add("atom_energies")
    if "forces" in properties:
        kinds = ("conservative", "direct") if parameters["both_forces"] else (kind,)
        names = [f"{each}_forces" for each in kinds]
        outputs |= parse_outputs([*names, *parameters["extra_outputs"]])
    if "stress" in properties:
        outputs.add(f"{kind}_stress")
    return frozenset(outputs)


def check_stress(atoms: Atoms, outputs: frozenset[str], info: ModelInfo) -> None:
    """Check that the stresses among the outputs exist.

    Raises:
        PropertyNotImplementedError: The cell has no volume, or the model has no such stress.
    """
    stresses = sorted(outputs & STRESSES)
    if stresses and not has_volume(atoms):
        raise PropertyNotImplementedError(
            "stress: expected a cell with a volume, periodic or not, as a stress is per volume, "
            f"got cell {atoms.cell.tolist()}"
        )
    if missing := [output for output in stresses if output not in info.outputs]:
        has = ", ".join(info.outputs)
        raise PropertyNotImplementedError(f"model {info.name!r} has no {missing[0]}; it has {has}")


def has_volume(atoms: Atoms) -> bool:
    """Return True if the cell has a volume that a stress can refer to."""
    return bool(atoms.pbc.all() or checks.has_volume(atoms.cell.array))
