"""Ensembles of constant energy, temperature or pressure: thermostats and the barostat.

Names of numbers end with their unit. Former names, of numbers in ASE's units, are refused.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from twinforce_dynamics.former_names import refuse_former
from twinforce_dynamics.units import BAR, FS

# Compressibility of water, in 1/bar.
WATER_COMPRESSIBILITY_PER_BAR = 4.6e-5

_DIVIDE = "(in ASE's unit, divide it by ase.units.{})"
_FORMER_TIME = {
    "relaxation": "relaxation_fs, the relaxation time in fs, such as relaxation_fs=100 "
    + _DIVIDE.format("fs")
}
_FORMER = _FORMER_TIME | {
    "pressure": "pressure_bar, the pressure in bar, such as pressure_bar=1 "
    + _DIVIDE.format("bar"),
    "compressibility": "compressibility_per_bar, in 1/bar, such as compressibility_per_bar=4.6e-5 "
    "(in ASE's unit, multiply it by ase.units.bar)",
}

_PRESENT_UNITS = {
    "relaxation": ("relaxation_fs", FS),
    "pressure": ("pressure_bar", BAR),
    "compressibility": ("compressibility_per_bar", 1 / BAR),
}

ThermostatName = Literal["svr", "svr-local", "langevin"]
EnsembleName = Literal["nve", "svr", "svr-local", "langevin", "npt-isotropic", "npt-anisotropic"]
THERMOSTATS: tuple[ThermostatName, ...] = get_args(ThermostatName)
ENSEMBLES: tuple[EnsembleName, ...] = get_args(EnsembleName)


@dataclass(frozen=True, slots=True)
class NVE:
    """Constant energy: no thermostat and no barostat."""


@refuse_former(_FORMER_TIME)
@dataclass(frozen=True, slots=True, kw_only=True)
class SVR:
    """Stochastic velocity rescaling (Bussi, Donadio, Parrinello, JCP 126, 014101 (2007)).

    The global variant multiplies all momenta, relative to the center of mass, by one factor; it
    hardly disturbs the dynamics. It is the limit of Langevin dynamics that acts on the total
    kinetic energy only (Bussi, Parrinello, Comput. Phys. Commun. 179, 26 (2008)).

    Attributes:
        temperature_k: Temperature, in K.
        relaxation_fs: Relaxation time τ of the kinetic energy, in fs.
        scope: "global" rescales all atoms by one factor, "local" each atom by a separate one.
    """

    temperature_k: float
    relaxation_fs: float
    scope: Literal["global", "local"] = "global"

    def __post_init__(self) -> None:
        _check_positive("SVR", temperature_k=self.temperature_k, relaxation_fs=self.relaxation_fs)
        _check_choice("SVR: scope", self.scope, ("global", "local"))


@refuse_former(_FORMER_TIME)
@dataclass(frozen=True, slots=True, kw_only=True)
class Langevin:
    """Langevin dynamics of each atom, as BAOAB (Leimkuhler, Matthews, AMRX 2013, 34 (2013)).

    Friction and noise act in the middle of every inner step. For a global thermostat, use `SVR`.

    Attributes:
        temperature_k: Temperature, in K.
        relaxation_fs: Relaxation time τ of the momenta, 1/friction, in fs.
    """

    temperature_k: float
    relaxation_fs: float

    def __post_init__(self) -> None:
        _check_positive(
            "Langevin", temperature_k=self.temperature_k, relaxation_fs=self.relaxation_fs
        )


@refuse_former(_FORMER)
@dataclass(frozen=True, slots=True, kw_only=True)
class NPT:
    """Constant pressure and temperature: stochastic cell rescaling with a thermostat.

    Isotropic: Bernetti, Bussi, JCP 153, 114107 (2020). Anisotropic: Del Tatto,
    Raiteri, Bernetti, Bussi, Appl. Sci. 12, 1139 (2022). The compressibility and the relaxation
    time matter only through their ratio, and only for how fast the cell responds.

    Attributes:
        thermostat: Thermostat, which also sets the temperature.
        pressure_bar: Pressure, in bar.
        coupling: "isotropic" changes the volume alone, "anisotropic" each length and angle of the
            cell.
        relaxation_fs: Relaxation time τ_p of the volume, in fs.
        compressibility_per_bar: Approximate compressibility of the system, in 1/bar.
    """

    thermostat: SVR | Langevin
    pressure_bar: float
    relaxation_fs: float
    coupling: Literal["isotropic", "anisotropic"] = "isotropic"
    compressibility_per_bar: float = WATER_COMPRESSIBILITY_PER_BAR

    def __post_init__(self) -> None:
        _check_positive(
            "NPT",
            relaxation_fs=self.relaxation_fs,
            compressibility_per_bar=self.compressibility_per_bar,
        )
        _check_choice("NPT: coupling", self.coupling, ("isotropic", "anisotropic"))
        if not isinstance(self.thermostat, SVR | Langevin):
            raise TypeError(f"NPT: thermostat: expected SVR or Langevin, got {self.thermostat!r}")
        if not abs(self.pressure_bar) < float("inf"):
            raise ValueError(
                f"NPT: pressure_bar: expected a finite number, got {self.pressure_bar}"
            )


Ensemble = NVE | SVR | Langevin | NPT


def make_ensemble(
    name: str,
    *,
    temperature_k: float,
    relaxation_fs: float,
    thermostat: str = "svr",
    pressure_bar: float = 1.0,
    pressure_relaxation_fs: float = 1000.0,
    compressibility_per_bar: float = WATER_COMPRESSIBILITY_PER_BAR,
) -> Ensemble:
    """Return the ensemble that these settings describe.

    Args:
        name: One of `ENSEMBLES`.
        temperature_k: Temperature of the thermostat, in K.
        relaxation_fs: Relaxation time of the thermostat, in fs.
        thermostat: One of `THERMOSTATS`; used at constant pressure only.
        pressure_bar: Pressure, in bar.
        pressure_relaxation_fs: Relaxation time of the volume, in fs.
        compressibility_per_bar: Approximate compressibility of the system, in 1/bar.

    Raises:
        ValueError: A name is unknown or a number is out of range. Settings that the ensemble does
            not use are not checked.
    """
    _check_choice("ensemble", name, ENSEMBLES)
    if name == "nve":
        return NVE()
    if name in THERMOSTATS:
        return _make_thermostat(name, temperature_k, relaxation_fs)
    _check_positive(
        "NPT",
        pressure_relaxation_fs=pressure_relaxation_fs,
        compressibility_per_bar=compressibility_per_bar,
    )
    return NPT(
        thermostat=_make_thermostat(thermostat, temperature_k, relaxation_fs),
        pressure_bar=pressure_bar,
        relaxation_fs=pressure_relaxation_fs,
        coupling="anisotropic" if name == "npt-anisotropic" else "isotropic",
        compressibility_per_bar=compressibility_per_bar,
    )


def text_in_ase_units(ensemble: Ensemble) -> str:
    """Return an ensemble as restart files and trajectories have it, in ASE's units and names."""
    if isinstance(ensemble, NVE):
        return repr(ensemble)
    if isinstance(ensemble, NPT):
        thermostat = text_in_ase_units(ensemble.thermostat)
        return (
            f"NPT(thermostat={thermostat}, pressure={ensemble.pressure_bar * BAR!r}, "
            f"relaxation={ensemble.relaxation_fs * FS!r}, coupling={ensemble.coupling!r}, "
            f"compressibility={ensemble.compressibility_per_bar / BAR!r})"
        )
    scope = f", scope={ensemble.scope!r}" if isinstance(ensemble, SVR) else ""
    return (
        f"{type(ensemble).__name__}(temperature_k={ensemble.temperature_k!r}, "
        f"relaxation={ensemble.relaxation_fs * FS!r}{scope})"
    )


def text_in_present_units(text: str) -> str:
    """Return an ensemble as `repr` has it, from the text that `text_in_ase_units` made of it."""

    def present(found: re.Match[str]) -> str:
        name, unit = _PRESENT_UNITS[found["name"]]
        in_ase_unit = float(found["number"])
        guess = in_ase_unit / unit
        rounded = float(f"{guess:.12g}")
        return f"{name}={rounded if rounded * unit == in_ase_unit else guess!r}"

    return re.sub(rf"\b(?P<name>{'|'.join(_PRESENT_UNITS)})=(?P<number>[^,)]+)", present, text)


def thermostat_of(ensemble: Ensemble) -> SVR | Langevin | None:
    """Return the thermostat of an ensemble, or None at constant energy."""
    if isinstance(ensemble, NPT):
        return ensemble.thermostat
    return None if isinstance(ensemble, NVE) else ensemble


def parse_thermostat_name(text: str) -> ThermostatName:
    """Return the thermostat of this name.

    Raises:
        ValueError: There is no such thermostat.
    """
    for name in THERMOSTATS:
        if text == name:
            return name
    raise ValueError(f"thermostat: expected one of {', '.join(THERMOSTATS)}, got {text!r}")


def _make_thermostat(text: str, temperature_k: float, relaxation_fs: float) -> SVR | Langevin:
    name = parse_thermostat_name(text)
    _check_positive(name, temperature_k=temperature_k, relaxation_fs=relaxation_fs)
    if name == "langevin":
        return Langevin(temperature_k=temperature_k, relaxation_fs=relaxation_fs)
    scope: Literal["global", "local"] = "local" if name == "svr-local" else "global"
    return SVR(temperature_k=temperature_k, relaxation_fs=relaxation_fs, scope=scope)


def _check_positive(kind: str, **values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{kind}: {name}: expected a positive number, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
