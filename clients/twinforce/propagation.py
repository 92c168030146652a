"""One outer step in any ensemble: the time stepping inside, the thermostat around it."""

from dataclasses import dataclass
from typing import Literal

from twinforce.bath import Bath
from twinforce.ensembles import NPT, Ensemble
from twinforce.mts import Floats, ForceFunction, Kind, Mechanics, State, respa_step, verlet_step

ForceChoice = Literal["conservative", "direct", "hybrid"]


@dataclass(frozen=True, slots=True, eq=False)
class Propagation:
    """How a walker gets from one outer step to the next.

    Attributes:
        forces: Which ones drive.
        inner_steps: M; 1 unless forces are hybrid.
        time_step: The inner one.
        bath: The ensemble that acts.
        ask_fast: Evaluates what an inner step needs.
        ask_all: Evaluates what the end of an outer step needs.
    """

    forces: ForceChoice
    inner_steps: int
    time_step: float
    bath: Bath
    ask_fast: ForceFunction
    ask_all: ForceFunction

    def start(self, positions: Floats, momenta: Floats, cell: Floats) -> State:
        """Return the state from which to step, from one evaluation."""
        return State(positions, momenta, cell, self.ask_all(positions, cell))

    def step(self, state: State) -> State:
        """Take one outer step."""
        half = self.inner_steps * self.time_step / 2
        state = self.bath.rescale_momenta(state, half)
        state = self._move(state)
        return self.bath.rescale_momenta(state, half)

    def _move(self, state: State) -> State:
        mechanics = Mechanics(
            masses=self.bath.masses,
            time_step=self.time_step,
            mobile=self.bath.mobile,
            middle=self._middle if self.bath.acts_in_the_middle else None,
        )
        if self.forces == "hybrid":
            return respa_step(state, self.ask_fast, self.ask_all, mechanics, self.inner_steps)
        return verlet_step(state, self.ask_all, mechanics, self.forces)

    def _middle(self, state: State, stress: Floats | None) -> tuple[State, Floats | None]:
        return self.bath.rub_and_strain(state, stress, self.time_step)


def outputs_of(forces: ForceChoice, ensemble: Ensemble) -> tuple[frozenset[str], frozenset[str]]:
    """Return what inner steps ask for, and what the end of an outer step does."""
    kinds: tuple[Kind, ...] = ("conservative", "direct") if forces == "hybrid" else (forces,)
    needed = ("forces", "stress") if isinstance(ensemble, NPT) else ("forces",)
    fast = frozenset(f"{kinds[-1]}_{each}" for each in needed)
    return fast, frozenset({"energy"} | {f"{kind}_{each}" for kind in kinds for each in needed})
