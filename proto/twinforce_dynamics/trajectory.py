"""The course of a walker: its steps, and what is to be seen of it at each moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from twinforce_dynamics.bath import Bath
from twinforce_dynamics.disagreement import Disagreement, Species, disagreement_of
from twinforce_dynamics.ensembles import FS, NPT, Ensemble
from twinforce_dynamics.mts import Mechanics, respa_steps, verlet_steps
from twinforce_dynamics.start import Start, generator_of
from twinforce_dynamics.steps import (
    Floats,
    ForceChoice,
    Kind,
    Question,
    State,
    Steps,
    kinetic_energy,
)
from twinforce_proto import InvalidRequestError, Provenance


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Snapshot:
    """A moment of a system that moves.

    Attributes:
        step: Inner steps since the start, those before a checkpoint too.
        time_fs: Since the start, in fs.
        positions: Shape [n_atoms, 3], in Å; not wrapped into the cell.
        velocities: Shape [n_atoms, 3], in Å per ASE's unit of time.
        cell: Lattice vectors as rows, shape [3, 3], in Å.
        energy: Potential, in eV.
        kinetic_energy: In eV.
        conserved_energy: The total energy less what thermostat and barostat put in, in eV.
        temperature_k: Of all atoms; the motion of the whole is no heat where it is kept.
        species_temperatures: In K, by symbol; NaN where nothing of a species can move.
        disagreement: Of both forces; None unless both drive.
        checkpoint: Bytes from which any client goes on, bit for bit on the same device.
        provenance: What made it.
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


class Trajectory:
    """What a walker does from its start on.

    Args:
        start: What it set out with.

    Raises:
        InvalidRequestError: Its thermostat multiplies velocities, and there are none.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self.integrator = start.integrator
        self.rng = generator_of(start.random_state)
        masses = start.masses[:, None]
        bath = Bath(self.integrator.ensemble, masses, start.mobility(), self.rng)
        stride, time_step = self.integrator.stride, self.integrator.time_step
        self._stepper = Stepper(self.integrator.force_kind, stride, time_step, bath)
        self._species = Species.of(start.system.atomic_numbers)

    @property
    def outputs(self) -> tuple[frozenset[str], frozenset[str]]:
        """What inner steps ask for, and what the end of an outer step does."""
        return outputs_of(self.integrator.force_kind, self.integrator.ensemble)

    def begin(self) -> Steps[State]:
        """Lead to the first state, by one evaluation."""
        start, bath = self._start, self._stepper.bath
        momenta = start.velocities * bath.masses
        if bath.mobile is not None:
            momenta = momenta * bath.mobile
        if not bath.is_moving(momenta):
            expected = "some of every atom that moves, as this thermostat multiplies them"
            raise InvalidRequestError.expected("velocities", expected, "zero")
        return self._stepper.start(start.system.positions, momenta, start.system.cell)

    def step(self, state: State) -> Steps[State]:
        """Lead through one outer step."""
        return self._stepper.step(state)

    def start_at(self, state: State) -> Start:
        """Return what the walker would set out with from this state."""
        velocities = state.momenta / self._stepper.bath.masses
        system = self._start.system.moved(state.positions, state.cell)
        return self._start.moved(system, velocities, self.rng.bit_generator.state)

    def snapshot(self, state: State, step: int, work_before: float) -> Snapshot:
        """Return what is to be seen of a state, without a checkpoint.

        Args:
            state: At the end of an outer step.
            step: How many inner ones it has taken.
            work_before: The work of the correction up to the outer step before, in eV.
        """
        bath, momenta = self._stepper.bath, state.momenta
        energy = state.prediction.energy or 0.0
        kinetic = kinetic_energy(momenta, bath.masses)
        is_hybrid = self.integrator.force_kind == "hybrid"
        symbols, indices = self._species.symbols, self._species.indices
        temperature_k, each_k = bath.temperatures_k(momenta, indices, len(symbols))
        return Snapshot(
            step=step,
            time_fs=step * self.integrator.time_step / FS,
            positions=state.positions,
            velocities=momenta / bath.masses,
            cell=state.cell,
            energy=energy,
            kinetic_energy=kinetic,
            conserved_energy=energy + kinetic - state.supplied,
            temperature_k=temperature_k,
            species_temperatures=dict(zip(symbols, each_k, strict=True)),
            disagreement=disagreement_of(self._species, state, work_before) if is_hybrid else None,
            provenance=state.prediction.provenance,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Stepper:
    """How a walker gets from one outer step to the next.

    Attributes:
        force_kind: Of the forces that drive.
        inner_steps: M; 1 unless forces are hybrid.
        time_step: The inner one.
        bath: The ensemble that acts.
    """

    force_kind: ForceChoice
    inner_steps: int
    time_step: float
    bath: Bath

    def start(self, positions: Floats, momenta: Floats, cell: Floats) -> Steps[State]:
        """Lead to the state from which to step, by one evaluation."""
        prediction = yield Question(positions, cell, is_whole=True)
        return State(positions, momenta, cell, prediction)

    def step(self, state: State) -> Steps[State]:
        """Lead through one outer step."""
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


def outputs_of(
    force_kind: ForceChoice, ensemble: Ensemble
) -> tuple[frozenset[str], frozenset[str]]:
    """Return what inner steps ask for, and what the end of an outer step does."""
    kinds: tuple[Kind, ...] = (
        ("conservative", "direct") if force_kind == "hybrid" else (force_kind,)
    )
    needed = ("forces", "stress") if isinstance(ensemble, NPT) else ("forces",)
    fast = frozenset(f"{kinds[-1]}_{each}" for each in needed)
    return fast, frozenset({"energy"} | {f"{kind}_{each}" for kind in kinds for each in needed})
