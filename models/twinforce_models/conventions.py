"""Conventions that predictions follow, whether they are made from torch tensors or numpy arrays."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from twinforce_proto import STRESSES, Prediction

Array = TypeVar("Array", Tensor, NDArray[np.float64])


class AtomSums(Protocol[Array]):
    """Reductions over the atoms of each of several systems, such as those of a `Batch`."""

    def mean_over_atoms(self, values: Array) -> Array:
        """Return the means of `values`, shape [n_atoms, m], over each system's atoms."""

    def to_atoms(self, values: Array) -> Array:
        """Return for each atom its system's entry of `values`, shape [n_systems, ...]."""


def without_net_force(direct_forces: Array, systems: AtomSums[Array]) -> Array:
    """Return the forces, shape [n_atoms, 3], less the mean over the atoms of each system."""
    return direct_forces - systems.to_atoms(systems.mean_over_atoms(direct_forces))


def symmetric_stress(strain_gradients: Array, volumes: Array) -> Array:
    """Return the stresses that belong to gradients with respect to strain.

        σ = (G + Gᵀ) / 2V        G -> strain_gradients,  V -> volumes

    The gradient of an energy that does not change under rotation is symmetric up to rounding; this
    makes it exactly so.

    Args:
        strain_gradients: Shape [n_systems, 3, 3], in eV.
        volumes: Shape [n_systems], in Å³.

    Returns:
        Shape [n_systems, 3, 3], in eV/Å³, tension > 0.
    """
    symmetric = (strain_gradients + strain_gradients.swapaxes(-1, -2)) / 2
    return symmetric / volumes[:, None, None]


def split_by_system(
    values: Mapping[str, NDArray[np.float64]], n_atoms_per_system: Sequence[int]
) -> list[Prediction]:
    """Return one prediction per system.

    Args:
        values: Arrays by name of `OUTPUTS`, with one row per system for "energy" and the stresses,
            and one row per atom otherwise. The predictions hold views of them.
        n_atoms_per_system: Numbers of atoms, in the order of the rows.
    """
    parts: list[dict[str, Any]] = [{} for _ in n_atoms_per_system]
    for name, rows in values.items():
        for part, value in zip(parts, _per_system(name, rows, n_atoms_per_system), strict=True):
            part[name] = value
    return [Prediction(**part) for part in parts]


def _per_system(
    name: str, rows: NDArray[np.float64], n_atoms_per_system: Sequence[int]
) -> Iterable[object]:
    if name == "energy":
        return cast("list[object]", rows.tolist())
    if name in STRESSES:
        return rows
    stops = accumulate(n_atoms_per_system)  # slices take a tenth of the time of numpy's split
    return [rows[stop - n : stop] for n, stop in zip(n_atoms_per_system, stops, strict=True)]
