"""Molecular dynamics of ASE atoms, for the command line, demos and scripts."""

from twinforce.md.drift import Drift, conserved_drift, energy_drift, fit_drift
from twinforce.md.instants import Instant, LogWriter
from twinforce.md.plots import plot_runs
from twinforce.md.running import (
    draw_velocities,
    dynamics_of,
    follow,
    follow_on_server,
    molecular_dynamics,
)
from twinforce.md.settings import Ensemble, MDSettings, Thermostat
from twinforce_dynamics.disagreement import Disagreement
from twinforce_dynamics.steps import ForceChoice

__all__ = [
    "Disagreement",
    "Drift",
    "Ensemble",
    "ForceChoice",
    "Instant",
    "LogWriter",
    "MDSettings",
    "Thermostat",
    "conserved_drift",
    "draw_velocities",
    "dynamics_of",
    "energy_drift",
    "fit_drift",
    "follow",
    "follow_on_server",
    "molecular_dynamics",
    "plot_runs",
]
