"""What is assessed, with what settings, and what a unit of the work is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from ase import Atoms

from twinforce._client import Client
from twinforce.ase import system_of
from twinforce.assess.budget import Deadline
from twinforce.assess.folder import Found
from twinforce.assess.progress import Progress
from twinforce_proto import ModelInfo, Prediction, System

# Of one request: enough to fill a device, and few enough for a busy CPU to answer in time.
_MOST_SYSTEMS = 64
_MOST_ATOMS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the simulations of an assessment have in common.

    Attributes:
        temperature_k: In K.
        time_step_fs: Of inner steps, in fs.
        equilibration_ps: With conservative forces, before all simulations, in ps.
        fmax: The largest force on an atom that an optimisation leaves, in eV/Å.
        seed: Of all random numbers.
    """

    temperature_k: float = 300.0
    time_step_fs: float = 0.5
    equilibration_ps: float = 1.0
    fmax: float = 0.05
    seed: int = 0

    def seed_of(self, key: str) -> int:
        """Return the seed of one unit: runs that share a thermostat's noise would err together."""
        return int(np.random.SeedSequence([self.seed, crc32(key.encode())]).generate_state(1)[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A served model on one system.

    Attributes:
        client: Of the service.
        info: What the model declares.
        atoms: As they were given.
        conditions: Of simulations.
        progress: Where to show how far the work is.
    """

    client: Client
    info: ModelInfo
    atoms: Atoms
    conditions: Conditions
    progress: Progress

    @property
    def has_both_forces(self) -> bool:
        """Whether the model offers conservative and direct forces."""
        return {"conservative_forces", "direct_forces"} <= set(self.info.outputs)

    @property
    def system(self) -> System:
        """The atoms as the service takes them."""
        return system_of(self.atoms, self.info)

    def predict(self, positions: Iterable[Any], outputs: Sequence[str]) -> list[Prediction]:
        """Evaluate the system at several positions, in one request."""
        systems = [self.system.moved(each) for each in positions]
        return self.client.predict(systems, outputs, self.info.name)

    @property
    def n_per_request(self) -> int:
        """How many systems go into one request."""
        return int(np.clip(_MOST_ATOMS // len(self.atoms), 1, _MOST_SYSTEMS))


# Works until it is done or the deadline has passed; keeps what it needs to go on in its place.
Work = Callable[[Subject, Path, Deadline], Found]


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A part of the work that is done, and kept, on its own.

    Attributes:
        key: Such as "nvt:direct:svr:10"; up to the first colon it names the piece.
        cost: About how many direct evaluations it takes.
        settings: What its files are good for; with other ones they are deleted.
        work: Does it.
        needs_start: Whether it begins from equilibrated atoms.
        outputs: What the model must offer.
        analysis: Grows when the same recordings give other values.
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
        """Which piece it is part of."""
        return self.key.partition(":")[0]
