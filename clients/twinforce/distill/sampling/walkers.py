"""Walkers, whose trajectories the teacher labels at every outer step."""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from ase import Atoms, units

from twinforce._client import Client
from twinforce.ase import TwinForceCalculator
from twinforce.ase.dynamics import MultipleTimeStepping
from twinforce.assess.units.simulation import EXPLOSION_ERRORS
from twinforce.distill.joined import JoinedClient
from twinforce.distill.sampling.labels import Labels, voigt
from twinforce.md import draw_velocities
from twinforce_dynamics.ensembles import Langevin

# Friction that keeps a trajectory on poor forces at its temperature, in fs.
_RELAXATION_FS = 50.0
# A walker explodes if its temperature exceeds this multiple of the target, and more if it has few
# atoms, or if both forces differ by more than this share of the forces themselves.
_MAX_HEATING = 3.0
_MAX_DIFFERENCE = 1.0


@dataclass(frozen=True, slots=True)
class Walk:
    """The conditions of a walker.

    Attributes:
        system: Index of the system that it starts from.
        scale: Factor of the length of the cell.
        temperature_k: Temperature, in K.
        is_test: True if its systems test the student, which never trains on them.
    """

    system: int
    scale: float
    temperature_k: float
    is_test: bool = False

    @property
    def key(self) -> str:
        """Name of the walker in files."""
        purpose = "test" if self.is_test else "train"
        return f"{self.system}_{self.scale:g}_{self.temperature_k:g}_{purpose}"


class LabeledWalker:
    """A system that moves at constant temperature while the teacher labels it.

    Args:
        walk: Conditions.
        atoms: Initial atoms, with or without velocities; not modified.
        time_step_fs: Inner time step, in fs.
        inner_steps: Inner steps with direct forces in each outer step; 1 moves on the forces of
            the teacher alone.
        rng: Generator of all random numbers.

    Attributes:
        walk: Conditions.
        atoms: The atoms as they are now.
        note: Reason why the walker has ended, or "".
    """

    def __init__(
        self,
        walk: Walk,
        atoms: Atoms,
        *,
        time_step_fs: float,
        inner_steps: int,
        rng: np.random.Generator,
        segment: int = 0,
    ) -> None:
        self.walk = walk
        self.atoms = atoms.copy()
        self.note = ""
        self._origin = atoms.copy()
        self._time_step_fs, self._inner_steps = time_step_fs, inner_steps
        self._rng = rng
        self._segment = segment
        self._rows: list[dict[str, Any]] = []
        self._n_kept = 0
        self._dynamics: MultipleTimeStepping | None = None
        self._calculator: TwinForceCalculator | None = None
        self._client: JoinedClient | None = None

    @property
    def n_labels(self) -> int:
        """Number of labels since it began."""
        return len(self._rows) + self._n_kept

    def begin(self, client: JoinedClient) -> None:
        """Begin to move with the forces of a client."""
        self._client = client
        if not self.atoms.has("momenta"):
            draw_velocities(self.atoms, self.walk.temperature_k, self._rng)
        self._calculator = TwinForceCalculator(cast(Client, client), model=client.model().name)
        self.atoms.calc = self._calculator
        is_hybrid = self._inner_steps > 1
        # On the forces of the teacher alone, neighboring labels are alike: a longer step will do.
        step_fs = self._time_step_fs if is_hybrid else 2.0 * self._time_step_fs
        self._dynamics = MultipleTimeStepping(
            self.atoms,
            step_fs * units.fs,
            inner_steps=self._inner_steps,
            forces="hybrid" if is_hybrid else "conservative",
            ensemble=Langevin(temperature_k=self.walk.temperature_k, relaxation_fs=_RELAXATION_FS),
            rng=self._rng,
        )
        self._label_step_fs = step_fs * self._inner_steps

    def advance(self) -> None:
        """Take an outer step and keep its label; note if the walker has exploded."""
        assert self._dynamics is not None
        try:
            self._dynamics.step()
        except EXPLOSION_ERRORS as error:
            self._explode(str(error))
            return
        prediction = self._dynamics.atoms.calc.prediction
        temperature_k = self._dynamics.temperature_k
        disagreement = self._dynamics.disagreement
        difference = math.nan if disagreement is None else disagreement.rmse
        forces = prediction.conservative_forces
        reason = self._reason_to_end(temperature_k, difference, forces)
        if not (reason and self._inner_steps == 1):
            self._rows.append(
                {
                    "positions": self.atoms.positions.copy(),
                    "energies": prediction.energy,
                    "forces": forces,
                    "stresses": voigt(prediction.conservative_stress),
                    "disagreements": difference,
                    "temperatures_k": temperature_k,
                    "segments": self._segment,
                    "steps_fs": self._label_step_fs,
                }
            )
        if reason:
            self._explode(reason)

    def take_labels(self) -> Labels:
        """Return the labels since the last call, and forget them."""
        rows, self._rows = self._rows, []
        self._n_kept += len(rows)
        if not rows:
            return Labels.empty(len(self.atoms))
        return Labels(**{name: np.array([row[name] for row in rows]) for name in rows[0]})

    def end(self) -> None:
        """Close the connection."""
        if self._calculator is not None:
            self._calculator.close()
            self._calculator = None

    def state(self) -> dict[str, Any]:
        """Return everything but the labels, for files."""
        return {
            "positions": self.atoms.positions.copy(),
            "momenta": self.atoms.get_momenta(),
            "segment": self._segment,
            "inner_steps": self._inner_steps,
            "n_labels": self.n_labels,
            "note": self.note,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state, in a new segment."""
        self.atoms.positions[:] = state["positions"]
        self.atoms.set_momenta(np.array(state["momenta"]), apply_constraint=False)
        self._segment = int(state["segment"]) + 1
        self._inner_steps = int(state["inner_steps"])
        self._n_kept = int(state["n_labels"])
        self.note = str(state["note"])

    def _reason_to_end(self, temperature_k: float, difference: float, forces: Any) -> str:
        n_atoms = len(self.atoms)
        limit = self.walk.temperature_k * (_MAX_HEATING + 6.0 / math.sqrt(n_atoms))
        if not temperature_k <= limit:
            return f"reached {temperature_k:.0f} K"
        size = float(np.sqrt(np.mean(np.square(forces))))
        if difference > _MAX_DIFFERENCE * size and n_atoms > 1:
            return f"both forces differ by {difference:.2g} eV/Å, as much as the forces themselves"
        return ""

    def _explode(self, reason: str) -> None:
        """Go on from the start on the forces of the teacher alone; end if those moved already."""
        if self._inner_steps == 1:
            self.note = f"ended: {reason}"
            return
        client = self._client
        assert client is not None
        self.end()
        self.note = ""
        self._inner_steps = 1
        self._segment += 1
        self.atoms = self._origin.copy()
        self.begin(client)
