"""Settings of molecular dynamics in everyday units: fs, K, bar."""

from dataclasses import dataclass
from typing import Literal, get_args

from twinforce_dynamics import ensembles
from twinforce_dynamics.steps import ForceChoice

Thermostat = Literal["svr", "svr-local", "langevin"]
Ensemble = Literal["nve", "svr", "svr-local", "langevin", "npt-isotropic", "npt-anisotropic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MDSettings:
    """Settings of molecular dynamics.

    Attributes:
        forces: Forces that drive the dynamics; "hybrid" is multiple time stepping.
        inner_steps: M, for hybrid forces: direct forces are evaluated at every inner step,
            conservative ones at every M-th.
        ensemble: "nve"; with a thermostat: "svr" (stochastic velocity rescaling, which hardly
            disturbs the dynamics), "svr-local" (the same for each atom) or "langevin"; at constant
            pressure: "npt-isotropic" or "npt-anisotropic" (stochastic cell rescaling).
        thermostat: Thermostat at constant pressure.
        n_steps: Number of inner steps, rounded up to whole outer steps.
        time_step_fs: Length of an inner step, in fs.
        temperature_k: Temperature of the thermostat and of velocities that are drawn, in K.
        relaxation_fs: Relaxation time of the thermostat, in fs.
        pressure_bar: Pressure, in bar.
        pressure_relaxation_fs: Relaxation time of the volume, in fs.
        compressibility_per_bar: Approximate compressibility of the system, in 1/bar.
        seed: Seed of all random numbers.
    """

    forces: ForceChoice = "conservative"
    inner_steps: int = 8
    ensemble: Ensemble = "nve"
    thermostat: Thermostat = "svr"
    n_steps: int = 1000
    time_step_fs: float = 0.5
    temperature_k: float = 300.0
    relaxation_fs: float = 100.0
    pressure_bar: float = 1.0
    pressure_relaxation_fs: float = 1000.0
    compressibility_per_bar: float = 4.6e-5
    seed: int = 0


def ensemble_of(settings: MDSettings, fs: float) -> ensembles.Ensemble:
    """Return the ensemble, its times in a unit of which `fs` is one femtosecond."""
    if settings.ensemble not in get_args(Ensemble):
        choices = ", ".join(get_args(Ensemble))
        raise ValueError(f"ensemble: expected one of {choices}, got {settings.ensemble!r}")
    if settings.ensemble == "nve":
        return ensembles.NVE()
    if not settings.ensemble.startswith("npt"):
        return _thermostat(settings.ensemble, settings, fs)
    return ensembles.NPT(
        thermostat=_thermostat(settings.thermostat, settings, fs),
        pressure=settings.pressure_bar * ensembles.BAR,
        relaxation=settings.pressure_relaxation_fs * fs,
        coupling="isotropic" if settings.ensemble == "npt-isotropic" else "anisotropic",
        compressibility=settings.compressibility_per_bar / ensembles.BAR,
    )


def _thermostat(name: str, settings: MDSettings, fs: float) -> ensembles.SVR | ensembles.Langevin:
    if name not in get_args(Thermostat):
        choices = ", ".join(get_args(Thermostat))
        raise ValueError(f"thermostat: expected one of {choices}, got {name!r}")
    temperature_k, relaxation = settings.temperature_k, settings.relaxation_fs * fs
    if name == "langevin":
        return ensembles.Langevin(temperature_k=temperature_k, relaxation=relaxation)
    scope: Literal["local", "global"] = "local" if name == "svr-local" else "global"
    return ensembles.SVR(temperature_k=temperature_k, relaxation=relaxation, scope=scope)
