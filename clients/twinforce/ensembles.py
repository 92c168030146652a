"""The ensembles of a simulation, and the units of velocities and stresses.

Names of numbers end with their unit. `FS` and `BAR` equal `ase.units.fs` and `ase.units.bar`.
"""

from twinforce_dynamics.ensembles import NPT, NVE, SVR, Ensemble, Langevin
from twinforce_dynamics.units import BAR, FS

__all__ = ["BAR", "FS", "NPT", "NVE", "SVR", "Ensemble", "Langevin"]
