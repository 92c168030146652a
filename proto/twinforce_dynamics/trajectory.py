"""The trajectory of a run: its steps, and snapshots of its states."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from twinforce_dynamics.bath import Bath
from twinforce_dynamics.disagreement import Disagreement, Species, disagreement_of
from twinforce_dynamics.ensembles import NPT, Ensemble
from twinforce_dynamics.mts import Mechanics, respa_steps, verlet_steps
from twinforce_dynamics.start import Start, generator_of
from twinforce_dynamics.steps import (
    Floats,
    ForceChoice,
    Kind,
    NeededEvaluation,
    State,
    Steps,
    kinetic_energy,
)
from twinforce_proto import InvalidRequestError, Provenance


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Snapshot:
    """A state of a run, as it is shown.

    Attributes:
        step: Inner steps since the start of the run, including those before a checkpoint.
        time_fs: Time since the start of the run, in fs.
        positions: Shape [n_atoms, 3], in Å; not wrapped into the cell.
        velocities: Shape [n_atoms, 3], in Å per ASE's unit of time.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        energy: Potential energy, in eV.
        kinetic_energy: Kinetic energy, in eV.
        conserved_energy: Total energy minus the energy that the thermostat and the barostat have
            supplied, in eV.
        temperature_k: Temperature of all atoms, in K. The motion of the center of mass does not
            count if the run conserves the total momentum.
        species_temperatures: Temperature of each species, in K, by chemical symbol; NaN if none
            of its atoms can move.
        disagreement: Disagreement of both forces; None unless both drive.
        checkpoint: Bytes from which any client can resume the run, bit for bit on the same device.
        provenance: Origin of the prediction.
    """

    step: int
    time_fs: float
    positions: Floats
    velocities: Floats
    cell: Floats
    energy: float
    kinetic_energy: float
    conserved_energy: float
    temperature_k: float
    species_temperatures: Mapping[str, float]
    disagreement: Disagreement | None = None
    checkpoint: bytes = b""
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stepper:
    """The outer steps of an integrator.

    Attributes:
        force_kind: Forces that drive.
        inner_steps: Number of inner steps per outer step; 1 unless forces are hybrid.
        time_step: Length of an inner step.
        bath: Ensemble that acts on the atoms.
    """

    force_kind: ForceChoice
    inner_steps: int
    time_step: float
    bath: Bath

    def start(self, positions: Floats, momenta: Floats, cell: Floats) -> Steps[State]:
        """Yield the evaluation of these positions; return the state from which to step."""
        prediction = yield NeededEvaluation(positions, cell, is_outer=True)
        return State(positions, momenta, cell, prediction)

    def step(self, state: State) -> Steps[State]:
        """Yield the evaluations of one outer step; return the state after it."""
        half = self.inner_steps * self.time_step / 2
        state = self.bath.rescale_momenta(state, half)
        state = yield from self._move(state)
        return self.bath.rescale_momenta(state, half)

    def _move(self, state: State) -> Steps[State]:
        mechanics = Mechanics(
            masses=self.bath.masses,
            time_step=self.time_step,
            mobile=self.bath.mobile,
            middle=self._middle if self.bath.acts_in_the_middle else None,
        )
        if self.force_kind == "hybrid":
            return respa_steps(state, mechanics, self.inner_steps)
        return verlet_steps(state, mechanics, self.force_kind)

    def _middle(self, state: State, stress: Floats | None) -> tuple[State, Floats | None]:
        return self.bath.apply_friction_and_strain(state, stress, self.time_step)


class Trajectory:
    """The sequence of states that follows from a start.

    Args:
        start: Initial state and integrator.

    Attributes:
        integrator: Integrator that moves the system.
        rng: Generator of all random numbers.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self.integrator = start.integrator
        self.rng = generator_of(start.random_state)
        masses = start.masses[:, None]
        bath = Bath(self.integrator.ensemble, masses, start.mobility(), self.rng)
        stride, time_step = self.integrator.stride, self.integrator.duration
        self._stepper = Stepper(self.integrator.force_kind, stride, time_step, bath)
        self._species = Species.of(start.system.atomic_numbers)

    @property
    def outputs(self) -> tuple[frozenset[str], frozenset[str]]:
        """Outputs that inner steps need, and those that the end of an outer step needs."""
        return outputs_of(self.integrator.force_kind, self.integrator.ensemble)

    def begin(self) -> Steps[State]:
        """Yield the evaluation of the initial positions; return the initial state.

        Raises:
            InvalidRequestError: The thermostat rescales velocities that are zero.
        """
        start, bath = self._start, self._stepper.bath
        momenta = start.velocities * bath.masses
        if bath.mobile is not None:
            momenta = momenta * bath.mobile
        if not bath.can_rescale(momenta):
            expected = (
                "nonzero velocities for every mobile atom, because this thermostat multiplies them"
            )
            raise InvalidRequestError.expected("velocities", expected, "zero")
        return self._stepper.start(start.system.positions, momenta, start.system.cell)

    def again(self, state: State) -> Steps[State]:
        """Yield the evaluation of a state's positions; return the state with that prediction."""
        start = yield from self._stepper.start(state.positions, state.momenta, state.cell)
        return replace(state, prediction=start.prediction)

    def step(self, state: State) -> Steps[State]:
        """Yield the evaluations of one outer step; return the state after it."""
        return self._stepper.step(state)

    def start_at(self, state: State) -> Start:
        """Return the start of a run that continues from this state."""
        velocities = state.momenta / self._stepper.bath.masses
        system = self._start.system.moved(state.positions, state.cell)
        return self._start.moved(system, velocities, self.rng.bit_generator.state)

    def snapshot(self, state: State, step: int, work_before: float) -> Snapshot:
        """Return the snapshot of a state, without a checkpoint.

        Args:
            state: State at the end of an outer step.
            step: Inner steps since the start of the run.
            work_before: Work of the correction up to the previous outer step, in eV.
        """
        bath, momenta = self._stepper.bath, state.momenta
        energy = state.prediction.energy or 0.0
        kinetic = kinetic_energy(momenta, bath.masses)
        is_hybrid = self.integrator.force_kind == "hybrid"
        symbols, indices = self._species.symbols, self._species.indices
        temperature_k, species_k = bath.temperatures_k(momenta, indices, len(symbols))
        return Snapshot(
            step=step,
            time_fs=step * self.integrator.time_step_fs,
            positions=state.positions,
            velocities=momenta / bath.masses,
            cell=state.cell,
            energy=energy,
            kinetic_energy=kinetic,
            conserved_energy=energy + kinetic - state.supplied,
            temperature_k=temperature_k,
            species_temperatures=dict(zip(symbols, species_k, strict=True)),
            disagreement=disagreement_of(self._species, state, work_before) if is_hybrid else None,
            provenance=state.prediction.provenance,
        )


def outputs_of(
    force_kind: ForceChoice, ensemble: Ensemble
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the outputs that inner steps need, and those that the end of an outer step needs."""
    kinds: tuple[Kind, ...] = (
        ("conservative", "direct") if force_kind == "hybrid" else (force_kind,)
    )
    quantities = ("forces", "stress") if isinstance(ensemble, NPT) else ("forces",)
    inner = frozenset(f"{kinds[-1]}_{quantity}" for quantity in quantities)
    outer = {f"{kind}_{quantity}" for kind in kinds for quantity in quantities}
    return inner, frozenset({"energy"} | outer)
