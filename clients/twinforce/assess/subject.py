"""The subject of an assessment, its conditions, and a unit of the work."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray

from twinforce._client import Client
from twinforce._weights import ServedWeights
from twinforce.ase import ForceKind, TwinForceCalculator, system_of
from twinforce.ase.checks import check_masses
from twinforce.assess.analysis.statistics import Floats
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import UnitResults
from twinforce.assess.progress import Progress
from twinforce_proto import ModelInfo, Prediction, Provenance, System

# Limits of one request: enough to fill a device, but few enough for a busy CPU to answer in time.
_MOST_SYSTEMS = 64
_MOST_ATOMS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The conditions that all simulations of an assessment share.

    Attributes:
        temperature_k: Temperature, in K.
        time_step_fs: Inner time step, in fs.
        equilibration_ps: Length of the equilibration with conservative forces that precedes all
            simulations, in ps.
        fmax: Largest force on an atom at which an optimization has converged, in eV/Å.
        seed: Seed of all random numbers.

    Raises:
        ValueError: A number is out of range; the message says which one.
    """

    temperature_k: float = 300.0
    time_step_fs: float = 0.5
    equilibration_ps: float = 1.0
    fmax: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("temperature_k", "time_step_fs", "fmax"):
            if not 0.0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name}: expected a positive number, got {value!r}")
        if not 0.0 <= self.equilibration_ps < math.inf:
            expected = "expected zero or a positive number"
            raise ValueError(f"equilibration_ps: {expected}, got {self.equilibration_ps!r}")

    def seed_of(self, key: str) -> int:
        """Return the seed of a unit; simulations that shared noise would have correlated errors."""
        return int(np.random.SeedSequence([self.seed, crc32(key.encode())]).generate_state(1)[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A served model and the system on which it is assessed.

    Attributes:
        client: Client of the service.
        info: Capabilities that the model declares.
        atoms: The system as the caller passed it. Atoms that FixAtoms holds neither move nor are
            displaced, and the forces on them do not count.
        conditions: Conditions that all simulations share.
        progress: Where to show progress.

    Raises:
        ValueError: The atoms have another constraint than FixAtoms, or no mass.
    """

    client: Client
    info: ModelInfo
    atoms: Atoms
    conditions: Conditions
    progress: Progress

    def __post_init__(self) -> None:
        free_atoms(self.atoms)  # raises if there is another constraint
        check_masses(self.atoms)

    @property
    def system(self) -> System:
        """The atoms as a system for the service."""
        return system_of(self.atoms)

    @property
    def free(self) -> NDArray[np.intp]:
        """Indices of the atoms that can move, shape [n_free]."""
        return free_atoms(self.atoms)

    @property
    def is_held(self) -> bool:
        """True if some atoms are fixed, so that the system cannot move as a whole."""
        return len(self.free) < len(self.atoms)

    def displaced(self, rng: np.random.Generator, scale: float) -> Floats:
        """Return positions with normally distributed displacements of the atoms that can move."""
        positions: Floats = self.atoms.positions.copy()
        positions[self.free] += rng.normal(scale=scale, size=(len(self.free), 3))
        return positions

    def predict(self, positions: Iterable[Any], outputs: Sequence[str]) -> list[Prediction]:
        """Evaluate the system at several positions, in one request."""
        systems = [self.system.moved(each) for each in positions]
        predictions = self.client.predict(systems, outputs, self.info.name)
        for prediction in predictions:
            self.check(prediction.provenance)
        return predictions

    def calculator(self, force_kind: ForceKind = "conservative") -> TwinForceCalculator:
        """Return a calculator that refuses other weights than those that are assessed."""
        calculator = TwinForceCalculator(self.client, model=self.info.name, force_kind=force_kind)
        calculator.check_weights(self.info)
        return calculator

    def check(self, source: Provenance | ModelInfo | None) -> None:
        """Check that a reply is from the weights that are assessed.

        Raises:
            ModelChangedError: The service has other weights by now.
        """
        assessed = ServedWeights.of(self.info)
        if source is not None and (found := ServedWeights.of(source)) != assessed:
            remedy = "serve those again to continue, or start over with --anew"
            raise assessed.changed_to(found, "which the assessment began with", remedy)

    @property
    def n_per_request(self) -> int:
        """Number of systems in one request."""
        return int(np.clip(_MOST_ATOMS // len(self.atoms), 1, _MOST_SYSTEMS))


def free_atoms(atoms: Atoms) -> NDArray[np.intp]:
    """Return the indices of the atoms that no FixAtoms holds.

    Raises:
        ValueError: There is another constraint.
    """
    is_free = np.ones(len(atoms), bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            kind = type(constraint).__name__
            raise ValueError(f"constraints: expected FixAtoms only, got {kind}")
        is_free[constraint.index] = False
    return np.flatnonzero(is_free)


# Works until it is done or the deadline passes; the directory is for files needed to continue.
Work = Callable[[Subject, Path, Deadline], UnitResults]


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A part of the work that is run and stored on its own.

    Attributes:
        key: Key such as "nvt:direct:svr:10"; the part before the first colon is the piece.
        cost: Estimated cost, in direct evaluations.
        settings: Settings with which its files were made; if any of them changes, the files are
            deleted.
        work: Function that does the work.
        needs_start: True if the unit starts from equilibrated atoms.
        outputs: Outputs that the model must support.
        analysis: Version of the analysis; increased when the same recordings give new values.
    """

    key: str
    cost: float
    settings: Mapping[str, Any]
    work: Work
    needs_start: bool = False
    outputs: frozenset[str] = frozenset({"conservative_forces", "direct_forces"})
    analysis: int = 1

    @property
    def piece(self) -> str:
        """The piece that the unit belongs to."""
        return self.key.partition(":")[0]
