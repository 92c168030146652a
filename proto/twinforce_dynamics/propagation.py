"""One outer step in any ensemble: the time stepping inside, the thermostat around it."""

from dataclasses import dataclass
from typing import Literal

from twinforce_dynamics.bath import Bath
from twinforce_dynamics.ensembles import NPT, Ensemble
from twinforce_dynamics.mts import (
    Floats,
    Kind,
    Mechanics,
    Question,
    State,
    Steps,
    respa_steps,
    verlet_steps,
)

ForceChoice = Literal["conservative", "direct", "hybrid"]


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """How a walker gets from one outer step to the next.

    Attributes:
        force_kind: Of the forces that drive.
        inner_steps: M; 1 unless forces are hybrid.
        time_step: The inner one.
        bath: The ensemble that acts.
    """

    force_kind: ForceChoice
    inner_steps: int
    time_step: float
    bath: Bath

    def start(self, positions: Floats, momenta: Floats, cell: Floats) -> Steps[State]:
        """Lead to the state from which to step, by one evaluation."""
        prediction = yield Question(positions, cell, is_whole=True)
        return State(positions, momenta, cell, prediction)

    def step(self, state: State) -> Steps[State]:
        """Lead through one outer step."""
        half = self.inner_steps * self.time_step / 2
        state = self.bath.rescale_momenta(state, half)
        state = yield from self._move(state)
        return self.bath.rescale_momenta(state, half)

    def _move(self, state: State) -> Steps[State]:
        mechanics = Mechanics(
            masses=self.bath.masses,
            time_step=self.time_step,
            mobile=self.bath.mobile,
            middle=self._middle if self.bath.acts_in_the_middle else None,
        )
        if self.force_kind == "hybrid":
            return respa_steps(state, mechanics, self.inner_steps)
        return verlet_steps(state, mechanics, self.force_kind)

    def _middle(self, state: State, stress: Floats | None) -> tuple[State, Floats | None]:
        return self.bath.rub_and_strain(state, stress, self.time_step)


def outputs_of(
    force_kind: ForceChoice, ensemble: Ensemble
) -> tuple[frozenset[str], frozenset[str]]:
    """Return what inner steps ask for, and what the end of an outer step does."""
    kinds: tuple[Kind, ...] = (
        ("conservative", "direct") if force_kind == "hybrid" else (force_kind,)
    )
    needed = ("forces", "stress") if isinstance(ensemble, NPT) else ("forces",)
    fast = frozenset(f"{kinds[-1]}_{each}" for each in needed)
    return fast, frozenset({"energy"} | {f"{kind}_{each}" for kind in kinds for each in needed})
