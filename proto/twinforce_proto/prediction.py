"""Predictions, their provenance and timings, and requests for them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of a prediction: the model, weights, device and service that produced it.

    Attributes:
        model: Name of the model, as requests give it.
        version: Version of the model.
        sha256: SHA-256 of the weights, in hexadecimal.
        dtype: Type that the model computes in, such as "float32".
        device: Device that the model runs on, such as "cpu" or "cuda:0".
        service_version: Version of the service.
    """

    model: str
    version: str
    sha256: str
    dtype: str
    device: str
    service_version: str


@dataclass(frozen=True, slots=True)
class Timings:
    """A breakdown of the time that a prediction took.

    Attributes:
        queue_s: Time spent waiting for the device, in s.
        compute_s: Time that the whole batch took on the device, in s.
        batch_n_systems: Number of systems in the batch.
        batch_n_atoms: Number of atoms in the batch.
        queue_n_atoms: Number of atoms that waited for the device when the batch was done, of all
            callers; None if it is not known.
    """

    queue_s: float
    compute_s: float
    batch_n_systems: int
    batch_n_atoms: int
    queue_n_atoms: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The prediction of a potential for one system; outputs that were not requested are None.

    Attributes:
        energy: Potential energy, in eV.
        atom_energies: Shape [n_atoms], in eV; they add up to the energy.
        conservative_forces: -dE/dr, shape [n_atoms, 3], in eV/Å.
        direct_forces: Output of the force head, not a gradient, without net force; shape
            [n_atoms, 3], in eV/Å.
        conservative_stress: (1/V) dE/dstrain with the volume V of the cell, whatever is periodic;
            shape [3, 3], in eV/Å³; tension > 0.
        direct_stress: Output of the stress head, not a derivative; shape [3, 3], in eV/Å³.
        provenance: Origin of the prediction.
        timings: Time that the prediction took.
    """

    energy: float | None = None
    atom_energies: NDArray[np.float64] | None = None
    conservative_forces: NDArray[np.float64] | None = None
    direct_forces: NDArray[np.float64] | None = None
    conservative_stress: NDArray[np.float64] | None = None
    direct_stress: NDArray[np.float64] | None = None
    provenance: Provenance | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Systems to evaluate together, and the outputs to predict for each.

    Attributes:
        model: Name of the model.
        systems: At least one system.
        outputs: Names from `OUTPUTS`, with shorthands expanded.
        reply_dtype: Type of the arrays in the reply, "float64" or "float32".
    """

    model: str
    systems: tuple[System, ...]
    outputs: frozenset[str]
    reply_dtype: str = "float64"
