"""What a walker sets out with: a system that moves, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_dynamics.elements import standard_masses
from twinforce_dynamics.ensembles import FS, NPT, NVE, Ensemble
from twinforce_dynamics.steps import Floats, ForceChoice
from twinforce_proto import InvalidRequestError, System, checks

_NVE = NVE()
_SPEED = "Å per unit of time"


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrator:
    """How a system moves.

    Attributes:
        time_step: The inner one, in ASE's unit: 0.5 * FS.
        force_kind: Of the forces that drive; "hybrid" is multiple time stepping.
        inner_steps: M, of hybrid forces.
        ensemble: What is held constant.

    Raises:
        InvalidRequestError: That is no way to move; `field` says why.
    """

    time_step: float = 0.5 * FS
    force_kind: ForceChoice = "hybrid"
    inner_steps: int = 8
    ensemble: Ensemble = _NVE

    def __post_init__(self) -> None:
        if self.force_kind not in get_args(ForceChoice):
            choices = " or ".join(get_args(ForceChoice))
            raise InvalidRequestError.expected("force_kind", choices, repr(self.force_kind))
        if not 0.0 < self.time_step < float("inf"):
            raise InvalidRequestError.expected(
                "time_step_fs", "a positive number", self.time_step / FS
            )
        if self.force_kind == "hybrid" and self.inner_steps < 1:
            raise InvalidRequestError.expected("inner_steps", "at least 1", self.inner_steps)

    @property
    def stride(self) -> int:
        """How many inner steps an outer one has: M; 1 unless forces are hybrid."""
        return self.inner_steps if self.force_kind == "hybrid" else 1


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Start:
    """A system that is to move, checked when it is made.

    Attributes:
        system: Where it is.
        velocities: Shape [n_atoms, 3], in Å per ASE's unit of time.
        integrator: How it moves.
        masses: Shape [n_atoms], in amu.
        fixed_atoms: The places of atoms that do not move.
        random_state: Of its random numbers, as numpy's PCG64 gives it.
    """

    system: System
    velocities: Floats
    integrator: Integrator
    masses: Floats
    fixed_atoms: NDArray[np.int32]
    random_state: Mapping[str, Any]

    def __init__(
        self,
        system: System,
        velocities: ArrayLike,
        integrator: Integrator,
        *,
        masses: ArrayLike | None = None,
        fixed_atoms: ArrayLike = (),
        random: int | np.random.Generator | Mapping[str, Any] | None = None,
    ) -> None:
        """Check and keep what a walker needs.

        Args:
            system: Where it starts.
            velocities: Shape [n_atoms, 3]; those of fixed atoms count as zero.
            integrator: How it moves.
            masses: Positive, shape [n_atoms], in amu. None: standard atomic weights.
            fixed_atoms: Places from 0; not all, and none where the pressure is constant.
            random: A seed, or random numbers to go on with. None: other ones each time.

        Raises:
            InvalidRequestError: When anything else came; `field` says where.
            InvalidSystemError: When velocities have another shape or are not finite.
        """
        n_atoms = len(system)
        values = {
            "system": system,
            "velocities": checks.coordinates("velocities", velocities, (n_atoms, 3), _SPEED),
            "integrator": integrator,
            "masses": _masses(masses, system),
            "fixed_atoms": places(fixed_atoms, n_atoms),
            "random_state": _random_state(random),
        }
        self._set(**values)
        if isinstance(integrator.ensemble, NPT):
            self._check_pressure()

    def moved(self, system: System, velocities: Floats, random_state: Mapping[str, Any]) -> Self:
        """Return what sets out elsewhere in the same way; what stays is not checked again.

        Args:
            system: The same atoms.
            velocities: Theirs, shape [n_atoms, 3], in Å per ASE's unit of time.
            random_state: Of its random numbers, as numpy's PCG64 gives it.

        Raises:
            InvalidSystemError: Velocities are not finite.
        """
        start = object.__new__(type(self))
        start._set(
            system=system,
            velocities=checks.coordinates("velocities", velocities, (len(system), 3), _SPEED),
            integrator=self.integrator,
            masses=self.masses,
            fixed_atoms=self.fixed_atoms,
            random_state=random_state,
        )
        return start

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def mobility(self) -> Floats | None:
        """Return 1 for atoms that move and 0 for fixed ones, [n_atoms, 1]; None: all move."""
        if not len(self.fixed_atoms):
            return None
        mobile = np.ones((len(self.system), 1))
        mobile[self.fixed_atoms] = 0.0
        return mobile

    def _check_pressure(self) -> None:
        if not self.system.pbc.all():
            expected = "a system periodic in all three directions at constant pressure"
            raise InvalidRequestError.expected("pbc", expected, self.system.pbc.tolist())
        if len(self.fixed_atoms):
            expected = "none at constant pressure"
            raise InvalidRequestError.expected(
                "fixed_atoms", expected, f"{len(self.fixed_atoms)} of them"
            )


def generator_of(random_state: Mapping[str, Any]) -> np.random.Generator:
    """Return random numbers that go on from a state of PCG64."""
    rng = np.random.Generator(np.random.PCG64(0))
    rng.bit_generator.state = random_state
    return rng


def _masses(values: ArrayLike | None, system: System) -> Floats:
    if values is None:
        return standard_masses(system.atomic_numbers)
    masses = np.asarray(values, dtype=np.float64)
    if masses.shape != (len(system),):
        raise InvalidRequestError.expected(
            "masses", f"shape [{len(system)}]", f"shape {list(masses.shape)}"
        )
    wrong = ~((masses > 0.0) & (masses < np.inf))
    if wrong.any():
        index = int(np.argmax(wrong))
        raise InvalidRequestError.expected(
            "masses", "positive numbers", f"{masses[index]} of atom {index}"
        )
    return masses


def places(values: ArrayLike, n_atoms: int) -> NDArray[np.int32]:
    """Return the places of fixed atoms, in order: none twice, and not all.

    Raises:
        InvalidRequestError: They are no such places.
    """
    given = np.asarray(values)
    if given.size and (given.ndim != 1 or given.dtype.kind not in "iu"):
        raise InvalidRequestError.expected(
            "fixed_atoms", "a list of whole numbers", f"{given.dtype} values"
        )
    wrong = (given < 0) | (given >= n_atoms)
    if wrong.any():
        raise InvalidRequestError.expected(
            "fixed_atoms", f"places from 0 to {n_atoms - 1}", given[wrong][0]
        )
    kept = np.unique(given).astype(np.int32)
    if len(kept) == n_atoms:
        raise InvalidRequestError.expected("fixed_atoms", "an atom that can move", "all of them")
    return kept


def _random_state(
    random: int | np.random.Generator | Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    if isinstance(random, Mapping):
        return random
    if random is None or not isinstance(random, np.random.Generator):
        if random is not None and not 0 <= random < 2**64:
            raise InvalidRequestError.expected("seed", "a whole number from 0 to 2**64 - 1", random)
        random = np.random.default_rng(random)
    state = random.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise InvalidRequestError.expected(
            "random", "random numbers of PCG64", state["bit_generator"]
        )
    return state
