"""The ways to drive a simulation, and the thermostats, by name."""

import re
from dataclasses import dataclass

from twinforce_dynamics.ensembles import ThermostatName, parse_thermostat_name
from twinforce_dynamics.steps import ForceChoice

# Typical cost of a conservative evaluation, in direct ones, until it has been measured.
TYPICAL_F = 2.5

_WAY = re.compile(r"(direct|conservative)|hybrid-([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class Way:
    """The forces that drive a simulation, and how often conservative ones are evaluated.

    Attributes:
        forces: Kind of forces.
        inner_steps: Inner steps per outer step, M; 1 unless forces are hybrid.
    """

    forces: ForceChoice
    inner_steps: int = 1

    def __str__(self) -> str:
        return f"hybrid-{self.inner_steps}" if self.forces == "hybrid" else self.forces

    @property
    def title(self) -> str:
        """Title in figures and tables."""
        return f"MTS, M = {self.inner_steps}" if self.forces == "hybrid" else self.forces

    @property
    def outputs(self) -> frozenset[str]:
        """Outputs that the model must support."""
        kinds = ("conservative", "direct") if self.forces == "hybrid" else (self.forces,)
        return frozenset(f"{kind}_forces" for kind in kinds)

    def cost(self, f: float = TYPICAL_F) -> float:
        """Return the cost of an inner step, in direct evaluations.

        1 + (F - 1)/M        F -> cost of a conservative evaluation, in direct ones
        """
        if self.forces == "direct":
            return 1.0
        return 1.0 + (f - 1.0) / self.inner_steps


@dataclass(frozen=True, slots=True)
class Thermostat:
    """A thermostat and its relaxation time.

    Attributes:
        ensemble: Name of the thermostat: "svr", "svr-local" or "langevin".
        relaxation_fs: Relaxation time τ, in fs.
    """

    ensemble: ThermostatName
    relaxation_fs: float

    def __str__(self) -> str:
        return f"{self.ensemble}:{self.relaxation_fs:g}"

    @property
    def title(self) -> str:
        """Title in figures and tables."""
        names = {"svr": "SVR", "svr-local": "SVR of each atom", "langevin": "Langevin"}
        return f"{names[self.ensemble]}, τ = {self.relaxation_fs:g} fs"


def parse_way(text: str) -> Way:
    """Return the way of this name: direct, conservative or hybrid-M.

    Raises:
        ValueError: No way has this name.
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
        ValueError: No thermostat has this name.
    """
    name, _, relaxation = text.partition(":")
    try:
        relaxation_fs = float(relaxation)
    except ValueError:
        relaxation_fs = 0.0
    if not 0 < relaxation_fs < float("inf"):
        raise ValueError(f"thermostat: expected such as svr:10, τ in fs, got {text!r}")
    return Thermostat(parse_thermostat_name(name), relaxation_fs)
