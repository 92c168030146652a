"""ASE with a TwinForce service: a calculator, and dynamics with multiple time stepping.

atoms.calc = TwinForceCalculator("grpc://127.0.0.1:8001")
MultipleTimeStepping(atoms, 0.5 * units.fs, inner_steps=8).run(1000)
"""

try:
    from twinforce._systems import system_of
    from twinforce.ase.calculator import ForceKind, TwinForceCalculator
    from twinforce.ase.dynamics import MultipleTimeStepping
    from twinforce.ase.errors import (
        CalculationError,
        FatalCalculationError,
        InvalidAtomsError,
        NonFiniteCalculationError,
        TooManyAtomsError,
        UnsupportedAtomsError,
    )
    from twinforce.ase.hydrogen import repartition_hydrogen_mass
    from twinforce.ase.misuse import DirectForcesWarning
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"twinforce.ase needs the ase extra: pip install 'twinforce[ase]' ({error})"
    ) from error
from twinforce_dynamics.disagreement import Disagreement, ForceDisagreementWarning
from twinforce_dynamics.ensembles import NPT, NVE, SVR, Langevin

__all__ = [
    "NPT",
    "NVE",
    "SVR",
    "CalculationError",
    "DirectForcesWarning",
    "Disagreement",
    "FatalCalculationError",
    "ForceDisagreementWarning",
    "ForceKind",
    "InvalidAtomsError",
    "Langevin",
    "MultipleTimeStepping",
    "NonFiniteCalculationError",
    "TooManyAtomsError",
    "TwinForceCalculator",
    "UnsupportedAtomsError",
    "repartition_hydrogen_mass",
    "system_of",
]
