"""Molecular dynamics with multiple time stepping, as a `MolecularDynamics` of ASE."""

import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from twinforce.ase.checks import check_atoms, check_numbers
from twinforce.ase.log import StepLog
from twinforce.ase.misuse import DirectForcesWarning
from twinforce.ase.moving import MovingAtoms
from twinforce.ase.on_server import propagate
from twinforce.ase.results import outputs_in
from twinforce.restart import Restart
from twinforce_dynamics.bath import Bath
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.disagreement import Disagreement, ForceDisagreementWarning
from twinforce_dynamics.ensembles import NVE, Ensemble, text_in_ase_units
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import ForceChoice, State, kinetic_energy, volume
from twinforce_dynamics.trajectory import Snapshot
from twinforce_dynamics.units import in_fs
from twinforce_proto import ModelChangedError

_NVE = NVE()


class MultipleTimeStepping(MolecularDynamics):  # type: ignore[misc]
    """Dynamics on direct forces, corrected by the conservative ones every `inner_steps` steps.

    One step of ASE is one outer step: M - 1 evaluations of direct forces and one of both. With
    `forces` "conservative" or "direct" it is velocity Verlet with those forces, one evaluation per
    step, in the same ensembles. Evaluations bypass the bookkeeping of ASE; after each outer step
    the atoms and the results of their calculator are up to date.

    Atoms may be changed between steps, also by observers and also on the server: coordinates, cell,
    species, number, charge, spin, calculator or its model, masses, momenta and constraints. The
    next step notices, evaluates the atoms again if it has to, or says why they cannot be moved.
    Temperatures count momenta relative to the center of mass, unless something changes the total
    momentum.
    """

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        *,
        inner_steps: int = 8,
        ensemble: Ensemble = _NVE,
        forces: ForceChoice = "hybrid",
        seed: int | None = None,
        rng: np.random.Generator | None = None,
        trajectory: Any = None,
        logfile: IO[str] | str | Path | None = None,
        loginterval: int = 1,
        **others: Any,
    ) -> None:
        """Create dynamics of these atoms; nothing is evaluated yet.

        Args:
            atoms: Atoms with a calculator that offers conservative_forces and direct_forces, such
                as TwinForceCalculator. The only constraint may be FixAtoms.
            timestep: Length of an inner step in ASE's unit, such as 0.5 * units.fs.
            inner_steps: M, for hybrid forces.
            ensemble: Ensemble of the simulation.
            forces: Forces that drive the dynamics; "hybrid" is multiple time stepping.
            seed: Seed of the random numbers if no `rng` is given.
            rng: Generator of the random numbers.
            trajectory: A file name or a writer, as in ASE.
            logfile: A file name, an open file or "-", as in ASE.
            loginterval: Outer steps between entries of the log and the trajectory.
            others: Other arguments of ASE's MolecularDynamics, such as append_trajectory.

        Raises:
            ValueError: The atoms cannot be moved in this way.
            UnsupportedOutputError: The model lacks forces or a stress that the steps need.
        """
        check_numbers(forces, timestep, inner_steps)
        check_atoms(atoms, ensemble)
        integrator = Integrator(
            time_step_fs=in_fs(float(timestep)),
            force_kind=forces,
            inner_steps=int(inner_steps) if forces == "hybrid" else 1,
            ensemble=ensemble,
        )
        rng = np.random.default_rng(seed) if rng is None else rng
        self._moving = MovingAtoms(atoms, integrator, rng)
        super().__init__(atoms, timestep, trajectory, None, loginterval, **others)
        if logfile:
            self.attach(self.closelater(StepLog(self, logfile, self.comm)), loginterval)
        if forces == "direct" and isinstance(ensemble, NVE):
            _warn_of_drift()

    @property
    def atoms(self) -> Atoms:
        """The atoms that move; may be replaced between steps."""
        return self._moving.atoms

    @atoms.setter
    def atoms(self, atoms: Atoms) -> None:
        self._moving.atoms = atoms

    @property
    def forces(self) -> ForceChoice:
        """Forces that drive the dynamics."""
        return self._moving.integrator.force_kind

    @property
    def inner_steps(self) -> int:
        """M; 1 unless forces are hybrid."""
        return self._moving.integrator.inner_steps

    @property
    def ensemble(self) -> Ensemble:
        """Ensemble of the simulation; may be replaced between steps."""
        return self._moving.integrator.ensemble

    @ensemble.setter
    def ensemble(self, ensemble: Ensemble) -> None:
        self._moving.integrator = replace(self._moving.integrator, ensemble=ensemble)

    @property
    def rng(self) -> np.random.Generator:
        """Generator of all random numbers; may be replaced between steps."""
        return self._moving.rng

    @rng.setter
    def rng(self, rng: np.random.Generator) -> None:
        self._moving.rng = rng

    @property
    def disagreement(self) -> Disagreement | None:
        """Disagreement of both forces after the last outer step; None unless forces are hybrid."""
        self._current_state()
        return self._moving.disagreement

    @property
    def temperature_k(self) -> float:
        """Current temperature, in K."""
        momenta = self._current_state().momenta
        return self._bath.temperature_k(momenta)

    @property
    def species_temperatures(self) -> dict[str, float]:
        """Current temperature of each species, by symbol, in K; NaN if all its atoms are fixed."""
        momenta = self._current_state().momenta
        species = self._moving.preparation.species
        symbols = species.symbols
        _, temperatures = self._bath.temperatures_k(momenta, species.indices, len(symbols))
        return dict(zip(symbols, temperatures, strict=True))

    @property
    def energy(self) -> float:
        """Current potential energy, in eV."""
        return float(self._current_state().prediction.energy or 0.0)

    @property
    def kinetic_energy(self) -> float:
        """Current kinetic energy, in eV."""
        return kinetic_energy(self._current_state().momenta, self.masses)

    @property
    def volume(self) -> float | None:
        """Current volume, in Å³; None if the system is not periodic in all directions."""
        return volume(self._current_state().cell) if self.atoms.pbc.all() else None

    def conserved_energy(self) -> float:
        """Return the total energy minus the energy supplied by thermostat and barostat, in eV.

        With exact forces it is constant to second order in the time step, in every ensemble. Its
        drift measures the error of the forces and of the time step.
        """
        return self.energy + self.kinetic_energy - self._current_state().supplied

    def step(self) -> None:
        """Take one outer step.

        Raises:
            ValueError: The atoms were changed so that they cannot be moved; the message says what.
            ModelChangedError: The service has other weights, and the calculator does not allow it.
            ServiceError: An evaluation failed. The atoms are as before the step.
        """
        self._check_time_step()
        self._moving.step()
        self._note_changes()

    def irun_on_server(self, n_outer: int, interval: int = 1) -> Generator[bool, None, None]:
        """Take outer steps on the server, with no data sent between intervals.

        Physics and random numbers are those of `irun`. Atoms, results and everything else are up
        to date at each interval; observers are not called. If the atoms are changed then, the
        server continues with the changed ones.

        Args:
            n_outer: Number of outer steps to take.
            interval: Outer steps between yields; the last step is always yielded, and the start
                is yielded first if it was not evaluated yet.

        Yields:
            True at the last step.

        Raises:
            ValueError: The calculator uses no service, or the atoms cannot be moved.
            ModelChangedError: The service has other weights, and the calculator does not allow it.
            ServiceError: The run failed.
        """
        end = self.nsteps + n_outer
        n_refused = 0
        while True:
            try:
                with closing(self._snapshots(end - self.nsteps, interval)) as snapshots:
                    for snapshot in snapshots:
                        adopted = self._adopt(snapshot)
                        n_refused = 0
                        yield self.nsteps == end
                        if self._is_changed_since(adopted):  # the server is ahead, without it
                            break
                if self.nsteps >= end:
                    return
            except ModelChangedError:
                n_refused += 1
                if n_refused > 1 or not self._moving.allows_model_change:
                    raise

    def _snapshots(self, n_outer: int, interval: int) -> Generator[Snapshot, None, None]:
        """Start a run on the server from the atoms as they are, and return its snapshots."""
        self._check_time_step()
        moving, n_taken = self._moving, self.nsteps * self.inner_steps
        preparation = moving.prepared()
        preparation.stepper.bath.check_motion(preparation.momenta_of(self.atoms))
        fixed_atoms = preparation.fixed_atoms()
        current = None if moving.state is None else (self._current_state(), n_taken)
        return propagate(
            self.atoms, fixed_atoms, moving.integrator, self.rng, current, n_outer, interval
        )

    def _adopt(self, snapshot: Snapshot) -> Checkpoint:
        """Continue from a snapshot of the server, and return its checkpoint."""
        checkpoint = Checkpoint.from_bytes(snapshot.checkpoint)
        self.nsteps = checkpoint.step // self.inner_steps
        self.rng.bit_generator.state = checkpoint.start.random_state
        prediction = replace(checkpoint.state.prediction, provenance=snapshot.provenance)
        state = replace(checkpoint.state, prediction=prediction)
        work = 0.0 if snapshot.disagreement is None else snapshot.disagreement.work
        self._moving.set(state, state.correction_work - work)
        self._note_changes()
        return checkpoint

    def _is_changed_since(self, adopted: Checkpoint) -> bool:
        """Return True if the server has gone on from other atoms or random numbers than these."""
        random_state = adopted.start.random_state
        return (
            in_fs(self.dt) != self._moving.integrator.time_step_fs
            or not self._moving.is_in(self._moving.state)
            or self.rng.bit_generator.state != random_state
        )

    def get_time(self) -> float:
        """Return the simulated time, in ASE's unit."""
        return float(self.nsteps * self.inner_steps * self.dt)

    def todict(self) -> dict[str, Any]:
        """Return the description that ASE writes into trajectories."""
        described: dict[str, Any] = super().todict()
        return described | self._settings()

    def save(self, path: Path | str, *, files: Mapping[str, Any] | None = None) -> None:
        """Save everything that the next step depends on as .npz; `restore` continues from it.

        Args:
            path: File to write; an existing one is replaced atomically.
            files: Facts about other files of the run to keep with it, as JSON has them.

        Raises:
            OSError: The file cannot be written, which leaves the old one.
        """
        state, preparation = self._current_state(), self._moving.preparation
        Restart(
            state=state,
            numbers=self.atoms.numbers,
            masses=self.masses[:, 0],
            n_steps=self.nsteps,
            settings=self._settings(),
            rng=self.rng.bit_generator.state,
            system=preparation.described(self.atoms),
            weights=preparation.source.weights,
            files=files or {},
        ).save(path)

    def restore(self, path: Path | str) -> None:
        """Continue from a saved file, bit for bit; this sets positions, momenta and cell.

        Raises:
            ValueError: It is not such a file, or was saved with other atoms, masses or settings.
            ModelChangedError: It was saved with other weights, and the calculator does not allow
                it. If it does, the saved positions are evaluated again.
        """
        saved = Restart.load(path)
        moving, preparation = self._moving, self._moving.prepared()
        system, masses = preparation.described(self.atoms), preparation.stepper.bath.masses
        saved.check(path, self.atoms.numbers, masses[:, 0], self._settings(), system)
        is_current = saved.check_weights(
            path, preparation.source.weights, allow_model_change=moving.allows_model_change
        )
        with _of_file(path):
            self.rng.bit_generator.state = saved.rng
        self.nsteps = saved.n_steps
        if is_current and preparation.outputs <= outputs_in(saved.state.prediction):
            moving.set(saved.state, saved.state.correction_work)
        else:
            moving.set_coordinates(saved.state)
        self._current_state()

    def _settings(self) -> dict[str, str]:
        return {
            "time-step": repr(float(self.dt)),
            "inner-steps": str(self.inner_steps),
            "forces": self.forces,
            "ensemble": text_in_ase_units(self.ensemble),
        }

    def _refresh_properties(self) -> None:
        """Evaluate the start before ASE calls the observers."""
        self._current_state()

    @property
    def _bath(self) -> Bath:
        return self._moving.preparation.stepper.bath

    def _current_state(self) -> State:
        """Return the state of the atoms; evaluate them if they were changed since the last step."""
        self._check_time_step()
        state = self._moving.current()
        self._note_changes()
        return state

    def _check_time_step(self) -> None:
        integrator = self._moving.integrator
        if in_fs(self.dt) != integrator.time_step_fs:
            raise ValueError(
                f"dt: expected {integrator.duration!r}, the time step that the dynamics began "
                f"with, got {self.dt!r}; create new dynamics to change it"
            )

    def _note_changes(self) -> None:
        """Tell ASE the masses, and the user if forces differ more than in the model's tests."""
        self.masses = self._bath.masses
        if text := self._moving.excess():
            warnings.warn(f"after {self.nsteps} outer steps, {text}", ForceDisagreementWarning, 4)


@contextmanager
def _of_file(path: Path | str) -> Iterator[None]:
    """Say of which file the random numbers cannot be used."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: saved with other random numbers; {error}") from error


def _warn_of_drift() -> None:
    warnings.warn(
        "Direct forces are not the gradient of an energy: molecular dynamics without a thermostat "
        "will drift. Use forces='hybrid'.",
        DirectForcesWarning,
        stacklevel=3,
    )
