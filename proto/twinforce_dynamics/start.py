"""The initial state of a run, and the integrator that moves it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from twinforce_dynamics.elements import standard_masses
from twinforce_dynamics.ensembles import NPT, NVE, Ensemble
from twinforce_dynamics.former_names import refuse_former
from twinforce_dynamics.steps import Floats, ForceChoice, is_number_of_steps
from twinforce_dynamics.units import FS
from twinforce_proto import InvalidRequestError, System, checks

_NVE = NVE()
_FORMER = {
    "time_step": "time_step_fs, the inner step in fs, such as time_step_fs=0.5 (in ASE's unit, "
    "divide it by ase.units.fs)"
}
_VELOCITY_UNIT = "Å per unit of time"


@refuse_former(_FORMER)
@dataclass(frozen=True, slots=True, kw_only=True)
class Integrator:
    """The forces, time steps and ensemble that move a system.

    Attributes:
        time_step_fs: Length of an inner step, in fs.
        force_kind: Forces that drive; "hybrid" is multiple time stepping.
        inner_steps: Number M of inner steps per outer step; hybrid forces only.
        ensemble: Ensemble: constant energy, temperature or pressure.

    Raises:
        InvalidRequestError: A value is invalid; `field` names it.
        TypeError: There is a `time_step`, which says no unit.
    """

    time_step_fs: float = 0.5
    force_kind: ForceChoice = "hybrid"
    inner_steps: int = 8
    ensemble: Ensemble = _NVE

    def __post_init__(self) -> None:
        if self.force_kind not in get_args(ForceChoice):
            choices = " or ".join(get_args(ForceChoice))
            raise InvalidRequestError.expected("force_kind", choices, repr(self.force_kind))
        if not 0.0 < self.time_step_fs < float("inf"):
            got = self.time_step_fs
            raise InvalidRequestError.expected("time_step_fs", "a positive number", got)
        if self.force_kind == "hybrid" and not is_number_of_steps(self.inner_steps):
            expected = "a whole number, at least 1"
            raise InvalidRequestError.expected("inner_steps", expected, repr(self.inner_steps))

    @property
    def duration(self) -> float:
        """Length of an inner step in ASE's unit of time."""
        return self.time_step_fs * FS

    @property
    def stride(self) -> int:
        """Number of inner steps per outer step: M for hybrid forces, else 1."""
        return self.inner_steps if self.force_kind == "hybrid" else 1


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Start:
    """The initial state of a run and its integrator, validated on construction.

    Attributes:
        system: Initial system.
        velocities: Shape [n_atoms, 3], in Å per ASE's unit of time.
        integrator: Integrator that moves the system.
        masses: Shape [n_atoms], in amu.
        fixed_atoms: Indices of atoms that do not move, in ascending order.
        random_state: State of the random number generator, as numpy's PCG64 defines it.
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
        """Validate the values and keep them.

        Args:
            system: Initial system.
            velocities: Shape [n_atoms, 3], in Å per ASE's unit of time; those of fixed atoms are
                ignored.
            integrator: Integrator that moves the system.
            masses: Positive numbers, shape [n_atoms], in amu. None: standard atomic weights.
            fixed_atoms: Indices, from 0, of atoms that do not move; not all of them, and none at
                constant pressure.
            random: Seed, or a generator or state of PCG64 to continue. None: a fresh seed.

        Raises:
            InvalidRequestError: A value is invalid; `field` names it.
            InvalidSystemError: The velocities have another shape or are not finite.
        """
        n_atoms = len(system)
        self._set(
            system=system,
            velocities=checks.coordinates("velocities", velocities, (n_atoms, 3), _VELOCITY_UNIT),
            integrator=integrator,
            masses=_check_masses(masses, system),
            fixed_atoms=check_fixed_atoms(fixed_atoms, n_atoms),
            random_state=_random_state_of(random),
        )
        if isinstance(integrator.ensemble, NPT):
            self._check_constant_pressure()

    def moved(self, system: System, velocities: Floats, random_state: Mapping[str, Any]) -> Self:
        """Return a start from a later state; the other attributes are shared.

        Args:
            system: The same atoms at their later positions.
            velocities: Their velocities, shape [n_atoms, 3], in Å per ASE's unit of time.
            random_state: State of the random number generator, as numpy's PCG64 defines it.

        Raises:
            InvalidSystemError: The velocities are not finite.
        """
        start = object.__new__(type(self))
        start._set(
            system=system,
            velocities=checks.coordinates(
                "velocities", velocities, (len(system), 3), _VELOCITY_UNIT
            ),
            integrator=self.integrator,
            masses=self.masses,
            fixed_atoms=self.fixed_atoms,
            random_state=random_state,
        )
        return start

    def mobility(self) -> Floats | None:
        """Return 1 for atoms that move and 0 for fixed ones, [n_atoms, 1]; None if all move."""
        if not len(self.fixed_atoms):
            return None
        mobile = np.ones((len(self.system), 1))
        mobile[self.fixed_atoms] = 0.0
        return mobile

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _check_constant_pressure(self) -> None:
        if not self.system.pbc.all():
            expected = "a system periodic in all three directions at constant pressure"
            raise InvalidRequestError.expected("pbc", expected, self.system.pbc.tolist())
        if n_fixed := len(self.fixed_atoms):
            raise InvalidRequestError.expected("fixed_atoms", "none at constant pressure", n_fixed)


def check_fixed_atoms(values: ArrayLike, n_atoms: int) -> NDArray[np.int32]:
    """Return the indices of fixed atoms in ascending order, without duplicates.

    Raises:
        InvalidRequestError: They are not indices of some, but not all, of the atoms.
    """
    field = "fixed_atoms"
    given = np.asarray(values)
    if given.size and (given.ndim != 1 or given.dtype.kind not in "iu"):
        got = f"{given.dtype} values of shape {list(given.shape)}"
        raise InvalidRequestError.expected(field, "a list of whole numbers", got)
    wrong = (given < 0) | (given >= n_atoms)
    if wrong.any():
        expected = f"indices from 0 to {n_atoms - 1}"
        raise InvalidRequestError.expected(field, expected, given[wrong][0])
    kept = np.unique(given).astype(np.int32)
    if len(kept) == n_atoms:
        raise InvalidRequestError.expected(field, "at least one atom that can move", "all atoms")
    return kept


def generator_of(random_state: Mapping[str, Any]) -> np.random.Generator:
    """Return a generator that continues from a state of PCG64."""
    rng = np.random.Generator(np.random.PCG64(0))
    rng.bit_generator.state = random_state
    return rng


def _check_masses(values: ArrayLike | None, system: System) -> Floats:
    if values is None:
        return standard_masses(system.atomic_numbers)
    field = "masses"
    masses = np.asarray(values, dtype=np.float64)
    if masses.shape != (len(system),):
        got = f"shape {list(masses.shape)}"
        raise InvalidRequestError.expected(field, f"shape [{len(system)}]", got)
    wrong = ~((masses > 0.0) & (masses < np.inf))
    if wrong.any():
        index = int(np.argmax(wrong))
        got = f"{masses[index]} at [{index}]"
        raise InvalidRequestError.expected(field, "positive numbers", got)
    return masses


def _random_state_of(
    random: int | np.random.Generator | Mapping[str, Any] | None,
) -> Mapping[str, Any]:
    if isinstance(random, Mapping):
        return random
    if not isinstance(random, np.random.Generator):
        if random is not None and not 0 <= random < 2**64:
            raise InvalidRequestError.expected("seed", "a whole number from 0 to 2**64 - 1", random)
        random = np.random.default_rng(random)
    state = random.bit_generator.state
    if state["bit_generator"] != "PCG64":
        got = state["bit_generator"]
        raise InvalidRequestError.expected("random", "a generator of kind PCG64", got)
    return state
