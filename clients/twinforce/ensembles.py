"""The ensembles of a simulation, with the units of their parameters.

Times are in ASE's unit, such as `100 * FS`, and pressures in eV/Å³, such as `1.0 * BAR`; `FS` and
`BAR` equal `ase.units.fs` and `ase.units.bar`.
"""

from twinforce_dynamics.ensembles import NPT, NVE, SVR, Ensemble, Langevin
from twinforce_dynamics.units import BAR, FS

__all__ = ["BAR", "FS", "NPT", "NVE", "SVR", "Ensemble", "Langevin"]
