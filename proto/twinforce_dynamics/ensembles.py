"""What is held constant in a simulation: energy, temperature, pressure.

Times are in ASE's unit, as `100 * units.fs` gives them, pressures in eV/Å³, as `units.bar` does.
"""

from dataclasses import dataclass
from typing import Literal

# Of CODATA 2014, as in ASE; in eV/K.
BOLTZMANN = 8.6173303e-5
# 1 fs in ASE's unit of time, sqrt(amu Å²/eV).
FS = 0.09822694788464063
# 1 bar and the compressibility of water, 4.6e-5/bar, in eV/Å³ and Å³/eV.
BAR = 6.241509126e-7
WATER_COMPRESSIBILITY = 4.6e-5 / BAR


@dataclass(frozen=True, slots=True)
class NVE:
    """Nothing acts; the total energy is constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SVR:
    """Stochastic velocity rescaling (Bussi, Donadio, Parrinello, JCP 126, 014101 (2007)).

    The global one multiplies all momenta, relative to the center of mass, by one factor; it hardly
    disturbs the dynamics. It is what Langevin dynamics becomes when it acts on the total kinetic
    energy only (Bussi, Parrinello, Comput. Phys. Commun. 179, 26 (2008)).

    Attributes:
        temperature_k: In K.
        relaxation: τ, of the kinetic energy.
        scope: "local" rescales each atom by a factor of its own.
    """

    temperature_k: float
    relaxation: float
    scope: Literal["global", "local"] = "global"

    def __post_init__(self) -> None:
        _check_positive(self, "temperature_k", "relaxation")
        _check_choice(self, "scope", ("global", "local"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Langevin:
    """Langevin dynamics of each atom, as BAOAB (Leimkuhler, Matthews, AMRX 2013, 34 (2013)).

    Friction and noise act in the middle of every inner step. It has no global variant of its own:
    that is `SVR`.

    Attributes:
        temperature_k: In K.
        relaxation: τ, of momenta: 1/friction.
    """

    temperature_k: float
    relaxation: float

    def __post_init__(self) -> None:
        _check_positive(self, "temperature_k", "relaxation")


@dataclass(frozen=True, slots=True, kw_only=True)
class NPT:
    """Stochastic cell rescaling, with a thermostat.

    Isotropic: Bernetti, Bussi, JCP 153, 114107 (2020). Anisotropic: Del Tatto,
    Raiteri, Bernetti, Bussi, Appl. Sci. 12, 1139 (2022). Only compressibility / relaxation
    matters, and only for how fast the cell answers.

    Attributes:
        thermostat: Which also says the temperature.
        pressure: In eV/Å³.
        coupling: "anisotropic" moves lengths and angles of the cell one by one.
        relaxation: τ_p, of the volume.
        compressibility: About that of the system, in Å³/eV.
    """

    thermostat: SVR | Langevin
    pressure: float
    relaxation: float
    coupling: Literal["isotropic", "anisotropic"] = "isotropic"
    compressibility: float = WATER_COMPRESSIBILITY

    def __post_init__(self) -> None:
        _check_positive(self, "relaxation", "compressibility")
        _check_choice(self, "coupling", ("isotropic", "anisotropic"))
        if not isinstance(self.thermostat, SVR | Langevin):
            raise TypeError(f"thermostat: expected SVR or Langevin, got {self.thermostat!r}")
        if not abs(self.pressure) < float("inf"):
            raise ValueError(f"pressure: expected a finite number, got {self.pressure}")


Ensemble = NVE | SVR | Langevin | NPT


def thermostat_of(ensemble: Ensemble) -> SVR | Langevin | None:
    """Return what keeps the temperature, if anything does."""
    if isinstance(ensemble, NPT):
        return ensemble.thermostat
    return None if isinstance(ensemble, NVE) else ensemble


def _check_positive(ensemble: Ensemble, *names: str) -> None:
    for name in names:
        value = getattr(ensemble, name)
        if not 0 < value < float("inf"):
            kind = type(ensemble).__name__
            raise ValueError(f"{kind}: {name}: expected a positive number, got {value!r}")


def _check_choice(ensemble: Ensemble, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(ensemble, name)
    if value not in choices:
        kind = type(ensemble).__name__
        raise ValueError(f"{kind}: {name}: expected one of {', '.join(choices)}, got {value!r}")
