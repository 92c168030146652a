"""Molecular dynamics with multiple time stepping, as a `MolecularDynamics` of ASE."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from twinforce.ase.calculator import DirectForcesWarning
from twinforce.ase.checks import check_atoms, check_numbers, check_outputs, mobility_of
from twinforce.ase.log import StepLog
from twinforce.ase.on_server import propagate
from twinforce.ase.sources import force_source_of
from twinforce.restart import Restart
from twinforce_dynamics.bath import Bath
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.disagreement import (
    Disagreement,
    ForceDisagreementWarning,
    Species,
    disagreement_of,
    exceeded,
)
from twinforce_dynamics.ensembles import NVE, Ensemble
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import ForceChoice, State, Steps, complete, kinetic_energy, volume
from twinforce_dynamics.trajectory import Snapshot, Stepper, outputs_of

_NVE = NVE()


class MultipleTimeStepping(MolecularDynamics):  # type: ignore[misc]
    """Dynamics on direct forces, corrected by the conservative ones every `inner_steps` steps.

    One step of ASE is one outer step: M - 1 evaluations of direct forces and one of both. With
    `forces` "conservative" or "direct" it is velocity Verlet with those forces, one evaluation per
    step, in the same ensembles. Evaluations bypass the bookkeeping of ASE; after each outer step
    the atoms and the results of their calculator are up to date.

    Atoms may be changed between steps, also by observers; they are evaluated again if they were
    moved. Masses and constraints are read once, on construction. Temperatures count momenta
    relative to the center of mass, unless something changes the total momentum.

    Attributes:
        ensemble: Ensemble of the simulation.
        forces: Forces that drive the dynamics.
        inner_steps: M; 1 unless forces are hybrid.
        rng: Generator of all random numbers.
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
        self._source = force_source_of(atoms)
        check_outputs(self._source.outputs, forces, ensemble)
        super().__init__(atoms, timestep, trajectory, None, loginterval, **others)
        self.forces: ForceChoice = forces
        self.ensemble = ensemble
        self.inner_steps = int(inner_steps) if forces == "hybrid" else 1
        self.rng = np.random.default_rng(seed) if rng is None else rng
        bath = Bath(ensemble, self.masses, mobility_of(atoms), self.rng)
        self._evaluate_inner, self._evaluate_outer = map(
            self._source.force_function, outputs_of(forces, ensemble)
        )
        self._stepper = Stepper(forces, self.inner_steps, timestep, bath)
        self._species = Species.of(atoms.numbers)
        self._state: State | None = None
        self._disagreement: Disagreement | None = None
        self._has_warned = False
        if logfile:
            self.attach(self.closelater(StepLog(self, logfile, self.comm)), loginterval)
        if forces == "direct" and isinstance(ensemble, NVE):
            _warn_of_drift()

    @property
    def disagreement(self) -> Disagreement | None:
        """Disagreement of both forces after the last outer step; None unless forces are hybrid."""
        self._current_state()
        return self._disagreement

    @property
    def temperature_k(self) -> float:
        """Current temperature, in K."""
        return self._stepper.bath.temperature_k(self._current_state().momenta)

    @property
    def species_temperatures(self) -> dict[str, float]:
        """Current temperature of each species, by symbol, in K; NaN if all its atoms are fixed."""
        symbols, indices = self._species.symbols, self._species.indices
        momenta = self._current_state().momenta
        _, temperatures = self._stepper.bath.temperatures_k(momenta, indices, len(symbols))
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
        """Take one outer step."""
        before = self._current_state()
        self._set_state(self._evaluated(self._stepper.step(before)), before.correction_work)

    def irun_on_server(self, n_outer: int, interval: int = 1) -> Iterator[bool]:
        """Take outer steps on the server, with no data sent between intervals.

        Physics and random numbers are those of `irun`. Atoms, results and everything else are up
        to date at each interval; observers are not called.

        Args:
            n_outer: Number of outer steps to take.
            interval: Outer steps between yields; the last step is always yielded, and the start
                is yielded first if it was not evaluated yet.

        Yields:
            True at the last step.

        Raises:
            ValueError: The calculator uses no service.
            ServiceError: The run failed.
        """
        end = self.nsteps + n_outer
        integrator = Integrator(
            time_step=float(self.dt),
            force_kind=self.forces,
            inner_steps=self.inner_steps,
            ensemble=self.ensemble,
        )
        n_taken = self.nsteps * self.inner_steps
        current = None if self._state is None else (self._current_state(), n_taken)
        for snapshot in propagate(self.atoms, integrator, self.rng, current, n_outer, interval):
            self._adopt(snapshot)
            yield self.nsteps == end

    def _adopt(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the server."""
        checkpoint = Checkpoint.from_bytes(snapshot.checkpoint)
        self.nsteps = checkpoint.step // self.inner_steps
        self.rng.bit_generator.state = checkpoint.start.random_state
        state, disagreement = checkpoint.state, snapshot.disagreement
        work = 0.0 if disagreement is None else disagreement.work
        self._set_state(state, state.correction_work - work)

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
        Restart(
            state=self._current_state(),
            numbers=self.atoms.numbers,
            masses=self.masses[:, 0],
            n_steps=self.nsteps,
            settings=self._settings(),
            rng=self.rng.bit_generator.state,
            files=files or {},
        ).save(path)

    def restore(self, path: Path | str) -> None:
        """Continue from a saved file, bit for bit; this sets positions, momenta and cell.

        Raises:
            ValueError: It is not such a file, or was saved with other atoms, masses or settings.
        """
        saved = Restart.load(path)
        saved.check(path, self.atoms.numbers, self.masses[:, 0], self._settings())
        self.rng.bit_generator.state = saved.rng
        self.nsteps = saved.n_steps
        self._has_warned = False
        self._set_state(saved.state, saved.state.correction_work)

    def _settings(self) -> dict[str, str]:
        return {
            "time-step": repr(float(self.dt)),
            "inner-steps": str(self.inner_steps),
            "forces": self.forces,
            "ensemble": repr(self.ensemble),
        }

    def _refresh_properties(self) -> None:
        """Evaluate the start before ASE calls the observers."""
        self._current_state()

    def _current_state(self) -> State:
        """Return the state of the atoms; evaluate them if they were moved since the last step."""
        momenta = self.atoms.arrays["momenta"].copy()
        if self._state is not None and self._matches_atoms(self._state):
            self._state = replace(self._state, momenta=momenta)
            return self._state
        mobile = self._stepper.bath.mobile
        state = self._evaluated(
            self._stepper.start(
                self.atoms.arrays["positions"].copy(),
                momenta if mobile is None else momenta * mobile,
                self.atoms.cell.array.copy(),
            )
        )
        before = state if self._state is None else self._state
        work = before.correction_work
        state = replace(state, supplied=before.supplied, correction_work=work)
        return self._set_state(state, work)

    def _evaluated(self, steps: Steps[State]) -> State:
        """Return the state after these steps, with their evaluations made."""
        return complete(steps, self._evaluate_inner, self._evaluate_outer)

    def _matches_atoms(self, state: State) -> bool:
        return np.array_equal(self.atoms.arrays["positions"], state.positions) and np.array_equal(
            self.atoms.cell.array, state.cell
        )

    def _set_state(self, state: State, work_before: float) -> State:
        """Update the atoms, the results of their calculator and the disagreement to a state."""
        self._state = state
        atoms = self.atoms
        atoms.arrays["positions"][:] = state.positions
        atoms.arrays["momenta"][:] = state.momenta
        atoms.cell[:] = state.cell
        if self.forces == "hybrid":
            self._disagreement = disagreement_of(self._species, state, work_before)
            atoms.info.update(_labels_of(self._disagreement))
            self._warn_if_exceeded(self._disagreement)
        self._source.adopt(atoms, state.prediction)
        return state

    def _warn_if_exceeded(self, disagreement: Disagreement) -> None:
        if self._has_warned:
            return
        if text := exceeded(disagreement, self._source.metadata):
            self._has_warned = True
            warnings.warn(f"after {self.nsteps} outer steps, {text}", ForceDisagreementWarning, 4)


def _labels_of(disagreement: Disagreement) -> dict[str, float]:
    """Return the entries for `atoms.info`, which ASE writes into trajectories."""
    species = {f"force_rmse_{name}": rmse for name, rmse in disagreement.species_rmse.items()}
    return species | {
        "force_rmse": disagreement.rmse,
        "correction_work": disagreement.total_work,
    }


def _warn_of_drift() -> None:
    warnings.warn(
        "Direct forces are not the gradient of an energy: molecular dynamics without a thermostat "
        "will drift. Use forces='hybrid'.",
        DirectForcesWarning,
        stacklevel=3,
    )
