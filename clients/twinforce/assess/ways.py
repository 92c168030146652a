"""The ways to drive a simulation, and how they are named."""

import re
from dataclasses import dataclass

from twinforce_dynamics.ensembles import ThermostatName, parse_thermostat_name
from twinforce_dynamics.steps import ForceChoice

# About what a conservative evaluation costs in direct ones, to share out time before it is known.
USUAL_F = 2.5

_WAY = re.compile(r"(direct|conservative)|hybrid-([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Way:
    """Which forces drive, and how often the conservative ones are asked for.

    Attributes:
        forces: Which ones.
        inner_steps: M; 1 unless forces are hybrid.
    """

    forces: ForceChoice
    inner_steps: int = 1

    def __str__(self) -> str:
        return f"hybrid-{self.inner_steps}" if self.forces == "hybrid" else self.forces

    @property
    def title(self) -> str:
        """For people to read."""
        return f"MTS, M = {self.inner_steps}" if self.forces == "hybrid" else self.forces

    @property
    def outputs(self) -> frozenset[str]:
        """What the model must offer."""
        kinds = ("conservative", "direct") if self.forces == "hybrid" else (self.forces,)
        return frozenset(f"{kind}_forces" for kind in kinds)

    def cost(self, f: float = USUAL_F) -> float:
        """Return what an inner step costs, in direct evaluations.

        1 + (F - 1)/M        F -> what a conservative evaluation costs in direct ones
        """
        if self.forces == "direct":
            return 1.0
        return 1.0 + (f - 1.0) / self.inner_steps


@dataclass(frozen=True, slots=True)
class Thermostat:
    """A thermostat and its relaxation time.

    Attributes:
        ensemble: "svr", "svr-local" or "langevin".
        relaxation_fs: τ, in fs.
    """

    ensemble: ThermostatName
    relaxation_fs: float

    def __str__(self) -> str:
        return f"{self.ensemble}:{self.relaxation_fs:g}"

    @property
    def title(self) -> str:
        """For people to read."""
        names = {"svr": "SVR", "svr-local": "SVR of each atom", "langevin": "Langevin"}
        return f"{names[self.ensemble]}, τ = {self.relaxation_fs:g} fs"


def parse_way(text: str) -> Way:
    """Return the way of this name: direct, conservative or hybrid-M.

    Raises:
        ValueError: There is none.
    """
    match = _WAY.fullmatch(text)
    if match is None:
        raise ValueError(f"forces: expected direct, conservative or hybrid-M, got {text!r}")
    if match[1] == "direct":
        return Way("direct")
    return Way("conservative") if match[1] else Way("hybrid", int(match[2]))


def parse_thermostat(text: str) -> Thermostat:
    """Return the thermostat of a name such as svr:10 or langevin:100, τ in fs.

    Raises:
        ValueError: There is none.
    """
    name, _, relaxation = text.partition(":")
    try:
        relaxation_fs = float(relaxation)
    except ValueError:
        relaxation_fs = 0.0
    if not 0 < relaxation_fs < float("inf"):
        raise ValueError(f"thermostat: expected such as svr:10, τ in fs, got {text!r}")
    return Thermostat(parse_thermostat_name(name), relaxation_fs)
