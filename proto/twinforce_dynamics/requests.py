"""Requests to move a system: propagate it or relax it."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_dynamics.start import Start, check_fixed_atoms
from twinforce_dynamics.steps import ForceChoice
from twinforce_proto import InvalidRequestError, System

# Defaults of a relaxation: force in eV/Å below which it has converged, and number of steps.
DEFAULT_FMAX = 0.05
DEFAULT_MAX_STEPS = 500


@dataclass(frozen=True, slots=True, eq=False)
class PropagateRequest:
    """A request to propagate a system by molecular dynamics.

    Attributes:
        model: Name of the model; with a checkpoint, it may be empty to use the checkpoint's model.
        origin: Initial state of a new run, or the checkpoint of a run to resume.
        n_steps: Number of inner steps to take from here, a multiple of the integrator's stride.
        interval: Inner steps between snapshots, a multiple of the stride. 0: the last one only.
        allow_model_change: True to resume a checkpoint of other weights, evaluated anew.

    Raises:
        InvalidRequestError: A number of steps is out of range.
    """

    model: str
    origin: Start | bytes
    n_steps: int
    interval: int = 0
    allow_model_change: bool = False

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise InvalidRequestError.expected("n_steps", "at least 1", self.n_steps)
        if self.interval < 0:
            raise InvalidRequestError.expected("interval", "at least 0", self.interval)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class RelaxRequest:
    """A request to relax a system in a fixed cell, validated on construction.

    Attributes:
        model: Name of the model.
        system: Initial system.
        force_kind: Forces that drive; "hybrid" starts with direct forces and finishes with
            conservative ones.
        fmax: Largest force on a mobile atom at convergence, in eV/Å.
        max_steps: Number of steps after which the relaxation ends even if it has not converged.
        interval: Steps between reports. 0: the last one only.
        fixed_atoms: Indices of atoms that do not move, in ascending order.
    """

    model: str
    system: System
    force_kind: ForceChoice
    fmax: float
    max_steps: int
    interval: int
    fixed_atoms: NDArray[np.int32]

    def __init__(
        self,
        model: str,
        system: System,
        *,
        force_kind: ForceChoice = "hybrid",
        fmax: float = DEFAULT_FMAX,
        max_steps: int = DEFAULT_MAX_STEPS,
        interval: int = 10,
        fixed_atoms: ArrayLike = (),
    ) -> None:
        """Validate the values, which the attributes of the class describe, and keep them.

        Raises:
            InvalidRequestError: A value is invalid; `field` names it.
        """
        if force_kind not in get_args(ForceChoice):
            choices = " or ".join(get_args(ForceChoice))
            raise InvalidRequestError.expected("force_kind", choices, repr(force_kind))
        if not 0.0 < fmax < float("inf"):
            raise InvalidRequestError.expected("fmax", "a positive number", fmax)
        if max_steps < 1:
            raise InvalidRequestError.expected("max_steps", "at least 1", max_steps)
        if interval < 0:
            raise InvalidRequestError.expected("interval", "at least 0", interval)
        values = {
            "model": model,
            "system": system,
            "force_kind": force_kind,
            "fmax": fmax,
            "max_steps": max_steps,
            "interval": interval,
            "fixed_atoms": check_fixed_atoms(fixed_atoms, len(system)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def moved(self, system: System) -> "RelaxRequest":
        """Return the same request for the system at its current positions."""
        return RelaxRequest(
            self.model,
            system,
            force_kind=self.force_kind,
            fmax=self.fmax,
            max_steps=self.max_steps,
            interval=self.interval,
            fixed_atoms=self.fixed_atoms,
        )
