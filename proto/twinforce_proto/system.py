"""One atomistic system and what is predicted for it, as numpy arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_proto import checks
from twinforce_proto.errors import InvalidRequestError
from twinforce_proto.outputs import FORCES


@dataclass(frozen=True, slots=True, eq=False, init=False)
class System:
    """One atomistic system, checked when it is made.

    What already has the right type is not copied; the arrays kept are read-only views.

    Attributes:
        atomic_numbers: Shape [n_atoms], 1 to 118.
        positions: Shape [n_atoms, 3], in Å; they need not lie inside the cell.
        cell: Lattice vectors as rows, shape [3, 3], in Å; zeros where there is none. May be
            skewed or left-handed.
        pbc: Periodic along each lattice vector, shape [3].
        charge: Total charge, in elementary charges.
        spin_multiplicity: 2S + 1.
    """

    atomic_numbers: NDArray[np.int32]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    charge: float | None
    spin_multiplicity: int | None

    def __init__(
        self,
        atomic_numbers: ArrayLike,
        positions: ArrayLike,
        cell: ArrayLike | None = None,
        pbc: ArrayLike | None = None,
        charge: float | None = None,
        spin_multiplicity: int | None = None,
    ) -> None:
        """Check and keep the arrays.

        Args:
            atomic_numbers: At least one whole number from 1 to 118.
            positions: Finite, shape [n_atoms, 3], in Å.
            cell: Finite, shape [3, 3], in Å. The vectors along periodic directions must not be
                zero and must not lie in one plane or on one line. None: no cell.
            pbc: Three bools, or one for all directions. None: open.
            charge: Finite, in elementary charges.
            spin_multiplicity: A whole number, at least 1.

        Raises:
            InvalidSystemError: When anything else came; `field` says where.
        """
        numbers = checks.atomic_numbers(atomic_numbers)
        periodic = checks.pbc(pbc)
        self._set(
            atomic_numbers=numbers,
            positions=checks.coordinates("positions", positions, (len(numbers), 3)),
            cell=checks.cell(cell, periodic),
            pbc=periodic,
            charge=checks.charge(charge),
            spin_multiplicity=checks.spin_multiplicity(spin_multiplicity),
        )

    @classmethod
    def of_checked(
        cls,
        atomic_numbers: NDArray[np.int32],
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        pbc: NDArray[np.bool_],
        charge: float | None,
        spin_multiplicity: int | None,
    ) -> Self:
        """Return the system with these attributes, which those of another one have been."""
        system = object.__new__(cls)
        system._set(
            atomic_numbers=atomic_numbers,
            positions=positions,
            cell=cell,
            pbc=pbc,
            charge=charge,
            spin_multiplicity=spin_multiplicity,
        )
        return system

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    def moved(self, positions: ArrayLike, cell: ArrayLike | None = None) -> Self:
        """Return this system with other coordinates; what stays is shared, not checked again.

        Args:
            positions: Shape [n_atoms, 3], in Å.
            cell: Shape [3, 3], in Å. None: unchanged.

        Raises:
            InvalidSystemError: As on construction.
        """
        return self.of_checked(
            self.atomic_numbers,
            checks.coordinates("positions", positions, (len(self), 3)),
            self.cell if cell is None else checks.cell(cell, self.pbc),
            self.pbc,
            self.charge,
            self.spin_multiplicity,
        )

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


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


@dataclass(frozen=True, slots=True)
class NonconservativityRequest:
    """Ask how far the forces of a system are from being a gradient.

    Attributes:
        model: The name of the model.
        system: Evaluated alone.
        output: Which forces: one of `FORCES`.
        pairs: Whether the norms of each pair of atoms are wanted too.

    Raises:
        InvalidRequestError: The output is no forces.
    """

    model: str
    system: System
    output: str = FORCES[0]
    pairs: bool = False

    def __post_init__(self) -> None:
        if self.output not in FORCES:
            expected = " or ".join(FORCES)
            text = f"output: expected {expected}, got {self.output!r}"
            raise InvalidRequestError(text, field="output")


@dataclass(frozen=True, slots=True, eq=False)
class Nonconservativity:
    """How far forces f are from being a gradient.

        λ = ‖(J - Jᵀ)/2‖ / ‖J‖        J = ∂f/∂r, Frobenius norms

    Attributes:
        value: λ: 0 for a gradient, and where the forces are the same everywhere; 1 for a field
            without any conservative part.
        jacobian_norm: ‖J‖, in eV/Å².
        antisymmetric_norm: ‖(J - Jᵀ)/2‖, in eV/Å².
        pair_norms: Of the 3 x 3 block of J of each pair of atoms, shape [n_atoms, n_atoms], in
            eV/Å²: rows are whose force, columns whose position. None unless asked for.
        antisymmetric_pair_norms: Likewise of (J - Jᵀ)/2.
        provenance: What made it.
        timings: Where the time went, all passes together.
    """

    value: float
    jacobian_norm: float
    antisymmetric_norm: float
    pair_norms: NDArray[np.float64] | None = None
    antisymmetric_pair_norms: NDArray[np.float64] | None = None
    provenance: Provenance | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a served model declares of itself.

    Attributes:
        name: What a client asks for.
        version: Of the model.
        sha256: Of the weights, in hexadecimal.
        architecture: The family of potentials it belongs to.
        cutoff: In Å.
        elements: Atomic numbers it was made for.
        dtype: What it computes in, such as "float32".
        device: Such as "cpu" or "cuda:0".
        outputs: What can be asked of it, in the order of `OUTPUTS`.
        n_parameters: How many numbers were trained.
        uses_charge: Whether the total charge of a system matters.
        uses_spin: Whether the spin multiplicity of a system matters.
        units: Of each output.
        metadata: Errors, training data, recipe ...: as JSON has it.
        card: The model card, in Markdown.
    """

    name: str
    version: str
    sha256: str
    architecture: str
    cutoff: float
    elements: tuple[int, ...]
    dtype: str
    device: str
    outputs: tuple[str, ...]
    n_parameters: int = 0
    uses_charge: bool = False
    uses_spin: bool = False
    units: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    card: str = ""
