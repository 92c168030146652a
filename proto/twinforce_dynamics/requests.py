"""Requests to move a system: propagate it or relax it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_dynamics.start import Start, places
from twinforce_dynamics.steps import ForceChoice
from twinforce_proto import InvalidRequestError, System


@dataclass(frozen=True, slots=True, eq=False)
class PropagateRequest:
    """A walker, and how far it is to go.

    Attributes:
        model: Its name; with a checkpoint, empty for the one that it was made with.
        origin: Where it sets out, or the checkpoint that it goes on from.
        n_steps: Inner ones, from here; whole outer steps.
        interval: Inner steps from one snapshot to the next; whole outer steps. 0: only the last.

    Raises:
        InvalidRequestError: Numbers of steps make no sense.
    """

    model: str
    origin: Start | bytes
    n_steps: int
    interval: int = 0

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise InvalidRequestError.expected("n_steps", "at least 1", self.n_steps)
        if self.interval < 0:
            raise InvalidRequestError.expected("interval", "at least 0", self.interval)


@dataclass(frozen=True, slots=True, eq=False, init=False)
class RelaxRequest:
    """A system that is to be relaxed, checked when it is made.

    Attributes:
        model: Its name.
        system: Where it starts.
        force_kind: "hybrid" goes down on direct forces and finishes on conservative ones.
        fmax: The largest force on an atom that counts as none, in eV/Å.
        max_steps: After which it ends also where forces are larger.
        interval: Steps from one report to the next; 0: the last one alone.
        fixed_atoms: The places of atoms that do not move.
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
        fmax: float = 0.05,
        max_steps: int = 500,
        interval: int = 10,
        fixed_atoms: ArrayLike = (),
    ) -> None:
        """Check and keep what is asked for; the attributes say what.

        Raises:
            InvalidRequestError: It makes no sense; `field` says where.
        """
        if force_kind not in ("conservative", "direct", "hybrid"):
            raise InvalidRequestError.expected(
                "force_kind", "hybrid, conservative or direct", repr(force_kind)
            )
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
            "fixed_atoms": places(fixed_atoms, len(system)),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def moved(self, system: System) -> "RelaxRequest":
        """Return the same request for the system where it is now."""
        return RelaxRequest(
            self.model,
            system,
            force_kind=self.force_kind,
            fmax=self.fmax,
            max_steps=self.max_steps,
            interval=self.interval,
            fixed_atoms=self.fixed_atoms,
        )
