"""A prediction, where it came from, and the request for it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.system import System


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a prediction.

    Attributes:
        model: The name a client asks for.
        version: Of the model.
        sha256: Of the weights, in hexadecimal.
        dtype: What the model computes in, such as "float32".
        device: Such as "cpu" or "cuda:0".
        service_version: Of the service that answered.
    """

    model: str
    version: str
    sha256: str
    dtype: str
    device: str
    service_version: str


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a prediction went.

    Attributes:
        queue_s: Waiting for the device, in s.
        compute_s: The whole batch on the device, in s.
        batch_n_systems: How many systems shared the batch.
        batch_n_atoms: How many atoms they had.
    """

    queue_s: float
    compute_s: float
    batch_n_systems: int
    batch_n_atoms: int


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a potential says of one system; only what was asked for is set.

    Attributes:
        energy: In eV.
        atom_energies: Shape [n_atoms], in eV; they add up to the energy.
        conservative_forces: -dE/dr, shape [n_atoms, 3], in eV/Å.
        direct_forces: The force head, not a gradient, without net force; shape [n_atoms, 3],
            in eV/Å.
        conservative_stress: (1/V) dE/dstrain, shape [3, 3], in eV/Å³; tension > 0.
        direct_stress: The stress head, not a derivative; shape [3, 3], in eV/Å³.
        provenance: What made it.
        timings: Where the time went.
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
    """Systems to evaluate together, and what is wanted of each.

    Attributes:
        model: The name of the model.
        systems: At least one.
        outputs: Names of `OUTPUTS`, shorthands expanded.
        reply_dtype: What the arrays of the reply travel as, "float64" or "float32".
    """

    model: str
    systems: tuple[System, ...]
    outputs: frozenset[str]
    reply_dtype: str = "float64"
