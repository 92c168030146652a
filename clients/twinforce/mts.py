"""Multiple time stepping as functions of arrays: state in, state out.

What `twinforce.ase.MultipleTimeStepping` and the service step with; `twinforce_dynamics.mts` says
how.
"""

from twinforce_dynamics.mts import Mechanics, respa_step, verlet_step
from twinforce_dynamics.steps import ForceFunction, State, kinetic_energy, volume

__all__ = [
    "ForceFunction",
    "Mechanics",
    "State",
    "kinetic_energy",
    "respa_step",
    "verlet_step",
    "volume",
]
