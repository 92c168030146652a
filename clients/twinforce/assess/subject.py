"""The subject of an assessment, its conditions, and a unit of the work."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from ase import Atoms

from twinforce._client import Client
from twinforce._weights import ServedWeights
from twinforce.ase import ForceKind, TwinForceCalculator, system_of
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
    """

    temperature_k: float = 300.0
    time_step_fs: float = 0.5
    equilibration_ps: float = 1.0
    fmax: float = 0.05
    seed: int = 0

    def seed_of(self, key: str) -> int:
        """Return the seed of a unit; simulations that shared noise would have correlated errors."""
        return int(np.random.SeedSequence([self.seed, crc32(key.encode())]).generate_state(1)[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A served model and the system on which it is assessed.

    Attributes:
        client: Client of the service.
        info: Capabilities that the model declares.
        atoms: The system as the caller passed it.
        conditions: Conditions that all simulations share.
        progress: Where to show progress.
    """

    client: Client
    info: ModelInfo
    atoms: Atoms
    conditions: Conditions
    progress: Progress

    @property
    def system(self) -> System:
        """The atoms as a system for the service."""
        return system_of(self.atoms)

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
