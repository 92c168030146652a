"""What is held constant in a simulation: energy, temperature, pressure.

Times are in ASE's unit, as `100 * units.fs` gives them, pressures in eV/Å³, as `units.bar` does.
"""

from twinforce_dynamics.ensembles import NPT, NVE, SVR, Ensemble, Langevin

__all__ = ["NPT", "NVE", "SVR", "Ensemble", "Langevin"]
