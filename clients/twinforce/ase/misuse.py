"""Detection of ASE algorithms that need conservative forces but are driven by direct ones.

An ASE calculator does not know which algorithm calls it, so the call stack is searched for one. The
classes are recognized by name, without importing them.
"""

import sys
import warnings
from dataclasses import dataclass
from types import FrameType

_INTEGRATOR = "ase.md.verlet.VelocityVerlet"

# Class -> purpose of the forces that it or a subclass requests.
_NEEDS_A_GRADIENT = {
    "ase.optimize.optimize.Optimizer": "a geometry optimization",
    "ase.phonons.Displacement": "phonons by finite differences",
    "ase.vibrations.vibrations.Vibrations": "vibrations by finite differences",
}


class DirectForcesWarning(UserWarning):
    """Direct forces are used where a gradient is needed."""


@dataclass(frozen=True, slots=True)
class Misuse:
    """A use of forces that needs conservative ones.

    Attributes:
        purpose: Phrase that names the use.
        stacklevel: Level of the user's code that requested it, for `warnings.warn`.
    """

    purpose: str
    stacklevel: int


def warn_of_misuse() -> bool:
    """Warn if the caller's caller needs conservative forces; return True if there was a warning."""
    misuse = find_misuse()
    if misuse is not None:
        warnings.warn(
            f"Direct forces are not the gradient of an energy: {misuse.purpose} will drift or not "
            "converge. Use force_kind='conservative', or a thermostat.",
            DirectForcesWarning,
            stacklevel=misuse.stacklevel,
        )
    return misuse is not None


def find_misuse() -> Misuse | None:
    """Return the use on the call stack that needs conservative forces, or None."""
    purpose: str | None = None
    frame: FrameType | None = sys._getframe(1)
    stacklevel = 1  # counted from the caller, as `warnings.warn` does there
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "ase":
            purpose = purpose or _purpose_of(frame.f_locals.get("self"))
        elif package != "twinforce" and purpose:
            break
        frame = frame.f_back
        stacklevel += 1
    return Misuse(purpose, stacklevel) if purpose else None


def _purpose_of(algorithm: object) -> str | None:
    classes = type(algorithm).__mro__
    for cls in classes:
        if purpose := _NEEDS_A_GRADIENT.get(_path(cls)):
            return purpose
    # Thermostats that derive from the integrator, such as Bussi, override its `step`.
    stepper = next((cls for cls in classes if "step" in vars(cls)), None)
    if stepper is not None and _path(stepper) == _INTEGRATOR:
        return "molecular dynamics without a thermostat"
    return None


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
