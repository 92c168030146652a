"""Finding out that direct forces drive something that needs conservative ones.

Only the call stack knows who asks an ASE calculator for forces, so it is read, without importing
any of ASE.
"""

import sys
from dataclasses import dataclass
from types import FrameType

_INTEGRATOR = "ase.md.verlet.VelocityVerlet"

# Class -> what it does with forces, wherever a subclass of it asks for them.
_NEEDS_A_GRADIENT = {
    "ase.optimize.optimize.Optimizer": "a geometry optimisation",
    "ase.phonons.Displacement": "phonons by finite differences",
    "ase.vibrations.vibrations.Vibrations": "vibrations by finite differences",
}


@dataclass(frozen=True, slots=True)
class Misuse:
    """What direct forces are used for, and how far up the stack that was asked for."""

    purpose: str
    stacklevel: int


def find_misuse() -> Misuse | None:
    """Return what the caller's callers need conservative forces for, if they do."""
    purpose: str | None = None
    frame: FrameType | None = sys._getframe(1)
    stacklevel = 1  # as `warnings.warn` counts where this is called
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package == "ase":
            purpose = purpose or _purpose_of(frame.f_locals.get("self"))
        elif package != "twinforce" and purpose:
            break
        frame = frame.f_back
        stacklevel += 1
    return Misuse(purpose, stacklevel) if purpose else None


def _purpose_of(asker: object) -> str | None:
    classes = type(asker).__mro__
    for cls in classes:
        if purpose := _NEEDS_A_GRADIENT.get(_path(cls)):
            return purpose
    # Thermostats that build on the integrator, such as Bussi, take steps of their own.
    stepper = next((cls for cls in classes if "step" in vars(cls)), None)
    if stepper is not None and _path(stepper) == _INTEGRATOR:
        return "molecular dynamics without a thermostat"
    return None


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
