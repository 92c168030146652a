"""What is held constant in a simulation: energy, temperature, pressure.

Times are in ASE's unit, as `100 * FS` gives them, pressures in eV/Å³, as `BAR` does: the same as
`ase.units.fs` and `ase.units.bar`.
"""

from twinforce_dynamics.ensembles import BAR, FS, NPT, NVE, SVR, Ensemble, Langevin

__all__ = ["BAR", "FS", "NPT", "NVE", "SVR", "Ensemble", "Langevin"]
