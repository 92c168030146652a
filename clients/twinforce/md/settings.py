"""Settings of molecular dynamics in everyday units: fs, K, bar."""

from dataclasses import dataclass

from twinforce_dynamics import ensembles
from twinforce_dynamics.steps import ForceChoice

Thermostat = ensembles.ThermostatName
Ensemble = ensembles.EnsembleName


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
    compressibility_per_bar: float = ensembles.WATER_COMPRESSIBILITY_PER_BAR
    seed: int = 0


def ensemble_of(settings: MDSettings) -> ensembles.Ensemble:
    """Return the ensemble that these settings describe.

    Raises:
        ValueError: A name is unknown or a number is out of range.
    """
    return ensembles.make_ensemble(
        settings.ensemble,
        temperature_k=settings.temperature_k,
        relaxation_fs=settings.relaxation_fs,
        thermostat=settings.thermostat,
        pressure_bar=settings.pressure_bar,
        pressure_relaxation_fs=settings.pressure_relaxation_fs,
        compressibility_per_bar=settings.compressibility_per_bar,
    )
