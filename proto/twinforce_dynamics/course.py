"""The course of a walker: its steps, and what is to be seen of it at each moment."""

from collections.abc import Mapping
from dataclasses import dataclass

from twinforce_dynamics.bath import Bath
from twinforce_dynamics.disagreement import Disagreement, Species, disagreement_of
from twinforce_dynamics.ensembles import FS
from twinforce_dynamics.mts import Floats, State, Steps, kinetic_energy
from twinforce_dynamics.propagation import Propagation, outputs_of
from twinforce_dynamics.start import Start, generator_of, invalid
from twinforce_proto import Provenance


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


class Course:
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
        self._propagation = Propagation(self.integrator.force_kind, stride, time_step, bath)
        self._species = Species.of(start.system.atomic_numbers)

    @property
    def outputs(self) -> tuple[frozenset[str], frozenset[str]]:
        """What inner steps ask for, and what the end of an outer step does."""
        return outputs_of(self.integrator.force_kind, self.integrator.ensemble)

    def begin(self) -> Steps[State]:
        """Lead to the first state, by one evaluation."""
        start, bath = self._start, self._propagation.bath
        momenta = start.velocities * bath.masses
        if bath.mobile is not None:
            momenta = momenta * bath.mobile
        if not bath.is_moving(momenta):
            expected = "some of every atom that moves, as this thermostat multiplies them"
            raise invalid("velocities", expected, "zero")
        return self._propagation.start(start.system.positions, momenta, start.system.cell)

    def step(self, state: State) -> Steps[State]:
        """Lead through one outer step."""
        return self._propagation.step(state)

    def start_at(self, state: State) -> Start:
        """Return what the walker would set out with from this state."""
        velocities = state.momenta / self._propagation.bath.masses
        system = self._start.system.moved(state.positions, state.cell)
        return self._start.moved(system, velocities, self.rng.bit_generator.state)

    def snapshot(self, state: State, step: int, work_before: float) -> Snapshot:
        """Return what is to be seen of a state, without a checkpoint.

        Args:
            state: At the end of an outer step.
            step: How many inner ones it has taken.
            work_before: The work of the correction up to the outer step before, in eV.
        """
        bath, momenta = self._propagation.bath, state.momenta
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
