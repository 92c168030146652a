"""Multiple time stepping as pure functions of arrays, which take a state and return the next one.

The equations are in `twinforce_dynamics.mts`; `twinforce.ase.MultipleTimeStepping` and the service
use the same functions.
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
