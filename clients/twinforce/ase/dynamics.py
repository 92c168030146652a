"""Molecular dynamics with multiple time stepping, as a `MolecularDynamics` of ASE."""

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics

from twinforce.ase.calculator import DirectForcesWarning
from twinforce.ase.checks import check_atoms, check_numbers
from twinforce.ase.log import StepLog
from twinforce.ase.on_server import propagate
from twinforce.ase.preparation import Preparation
from twinforce.ase.results import outputs_in
from twinforce.ase.sources import ForceSource
from twinforce.restart import Restart
from twinforce_dynamics.codec.checkpoint import Checkpoint
from twinforce_dynamics.disagreement import (
    Disagreement,
    ForceDisagreementWarning,
    disagreement_of,
    exceeded,
)
from twinforce_dynamics.ensembles import NVE, Ensemble
from twinforce_dynamics.start import Integrator
from twinforce_dynamics.steps import ForceChoice, State, Steps, complete, kinetic_energy, volume
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import ModelChangedError

_NVE = NVE()
_T = TypeVar("_T")


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

    Attributes:
        ensemble: Ensemble of the simulation; may be replaced between steps.
        rng: Generator of all random numbers; may be replaced between steps.
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
        self.ensemble = ensemble
        self.rng = np.random.default_rng(seed) if rng is None else rng
        self._integrator = Integrator(
            time_step=float(timestep),
            force_kind=forces,
            inner_steps=int(inner_steps) if forces == "hybrid" else 1,
            ensemble=ensemble,
        )
        self._preparation = Preparation.of(atoms, self._integrator, self.rng)
        super().__init__(atoms, timestep, trajectory, None, loginterval, **others)
        self._state: State | None = None
        self._evaluated_by: ForceSource | None = None
        self._disagreement: Disagreement | None = None
        self._random_state: Mapping[str, Any] = {}
        self._has_warned = False
        if logfile:
            self.attach(self.closelater(StepLog(self, logfile, self.comm)), loginterval)
        if forces == "direct" and isinstance(ensemble, NVE):
            _warn_of_drift()

    @property
    def forces(self) -> ForceChoice:
        """Forces that drive the dynamics."""
        return self._integrator.force_kind

    @property
    def inner_steps(self) -> int:
        """M; 1 unless forces are hybrid."""
        return self._integrator.inner_steps

    @property
    def disagreement(self) -> Disagreement | None:
        """Disagreement of both forces after the last outer step; None unless forces are hybrid."""
        self._current_state()
        return self._disagreement

    @property
    def temperature_k(self) -> float:
        """Current temperature, in K."""
        momenta = self._current_state().momenta
        return self._preparation.stepper.bath.temperature_k(momenta)

    @property
    def species_temperatures(self) -> dict[str, float]:
        """Current temperature of each species, by symbol, in K; NaN if all its atoms are fixed."""
        momenta = self._current_state().momenta
        bath, species = self._preparation.stepper.bath, self._preparation.species
        symbols = species.symbols
        _, temperatures = bath.temperatures_k(momenta, species.indices, len(symbols))
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
        self._again_if_allowed(self._step)

    def _step(self) -> None:
        before = self._current_state()
        after = self._completed(self._preparation.stepper.step(before))
        self._set_state(after, before.correction_work)

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
                        self._adopt(snapshot)
                        n_refused = 0
                        yield self.nsteps == end
                        if self._is_changed():  # the server is ahead, without the change
                            break
                if self.nsteps >= end:
                    return
            except ModelChangedError:
                n_refused += 1
                if n_refused > 1 or not self._allows_model_change():
                    raise

    def _snapshots(self, n_outer: int, interval: int) -> Generator[Snapshot, None, None]:
        """Start a run on the server from the atoms as they are, and return its snapshots."""
        self._prepare()
        n_taken = self.nsteps * self.inner_steps
        current = None if self._state is None else (self._current_state(), n_taken)
        fixed_atoms, integrator = self._preparation.fixed_atoms(), self._integrator
        return propagate(self.atoms, fixed_atoms, integrator, self.rng, current, n_outer, interval)

    def _adopt(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot of the server."""
        checkpoint = Checkpoint.from_bytes(snapshot.checkpoint)
        self.nsteps = checkpoint.step // self.inner_steps
        self.rng.bit_generator.state = self._random_state = checkpoint.start.random_state
        prediction = replace(checkpoint.state.prediction, provenance=snapshot.provenance)
        state, disagreement = (
            replace(checkpoint.state, prediction=prediction),
            snapshot.disagreement,
        )
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
        state = self._current_state()
        Restart(
            state=state,
            numbers=self.atoms.numbers,
            masses=self.masses[:, 0],
            n_steps=self.nsteps,
            settings=self._settings(),
            rng=self.rng.bit_generator.state,
            system=self._preparation.described(self.atoms),
            weights=self._preparation.source.weights,
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
        self._prepare()
        system = self._preparation.described(self.atoms)
        saved.check(path, self.atoms.numbers, self.masses[:, 0], self._settings(), system)
        weights, is_allowed = self._preparation.source.weights, self._allows_model_change()
        is_current = saved.check_weights(path, weights, allow_model_change=is_allowed)
        self.rng.bit_generator.state = saved.rng
        self.nsteps = saved.n_steps
        self._has_warned = False
        self._set_state(saved.state, saved.state.correction_work)
        if not is_current:
            self._evaluated_by = None
            self._current_state()

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

    def _prepare(self) -> None:
        """Notice what was changed, and prepare the steps for the atoms as they are now."""
        if self.dt != self._integrator.time_step:
            raise ValueError(
                f"dt: expected {self._integrator.time_step!r}, the time step that the dynamics "
                f"began with, got {self.dt!r}; create new dynamics to change it"
            )
        if self.ensemble is not self._integrator.ensemble:
            self._integrator = replace(self._integrator, ensemble=self.ensemble)
        before = self._preparation
        if before.is_for(self.atoms, self._integrator, self.rng):
            return
        self._preparation = Preparation.of(self.atoms, self._integrator, self.rng, before)
        self.masses = self._preparation.stepper.bath.masses
        if self._preparation.source is not before.source:
            self._has_warned = False
            _remove_labels(self.atoms, before.species.symbols)

    def _current_state(self) -> State:
        """Return the state of the atoms; evaluate them if they were changed since the last step."""
        return self._again_if_allowed(self._up_to_date_state)

    def _up_to_date_state(self) -> State:
        self._prepare()
        momenta = self._preparation.momenta_of(self.atoms)
        if self._state is not None and self._holds(self._state):
            self._state = replace(self._state, momenta=momenta)
            return self._state
        atoms, stepper = self.atoms, self._preparation.stepper
        start = stepper.start(atoms.positions.copy(), momenta, atoms.cell.array.copy())
        state = self._completed(start)
        before = state if self._state is None else self._state
        work = before.correction_work
        state = replace(state, supplied=before.supplied, correction_work=work)
        return self._set_state(state, work)

    def _completed(self, steps: Steps[State]) -> State:
        """Return the state after these steps, with their evaluations made."""
        return complete(steps, self._preparation.inner, self._preparation.outer)

    def _again_if_allowed(self, act: Callable[[], _T]) -> _T:
        """Act; once more, with all evaluated anew, if the service came to have other weights."""
        try:
            return act()
        except ModelChangedError:
            if not self._allows_model_change():
                raise
            return act()

    def _allows_model_change(self) -> bool:
        return bool(getattr(self.atoms.calc, "allow_model_change", False))

    def _holds(self, state: State) -> bool:
        """Return True if the state has what a step from the present coordinates needs."""
        return (
            self._evaluated_by is self._preparation.source
            and np.array_equal(self.atoms.positions, state.positions)
            and np.array_equal(self.atoms.cell.array, state.cell)
            and self._preparation.outputs <= outputs_in(state.prediction)
        )

    def _is_changed(self) -> bool:
        """Return True if anything was changed since the last snapshot of the server."""
        state, preparation = self._state, self._preparation
        return not (
            state is not None
            and self.ensemble is self._integrator.ensemble
            and self.dt == self._integrator.time_step
            and preparation.is_for(self.atoms, self._integrator, self.rng)
            and self._holds(state)
            and np.array_equal(self.atoms.get_momenta(), state.momenta)
            and self.rng.bit_generator.state == self._random_state
        )

    def _set_state(self, state: State, work_before: float) -> State:
        """Update the atoms, the results of their calculator and the disagreement to a state."""
        self._state = state
        self._evaluated_by = self._preparation.source
        atoms = self.atoms
        atoms.positions = state.positions
        atoms.set_array("momenta", state.momenta, float, (3,))
        atoms.cell[:] = state.cell
        if self.forces == "hybrid":
            species = self._preparation.species
            self._disagreement = disagreement_of(species, state, work_before)
            atoms.info.update(_labels_of(self._disagreement))
            self._warn_if_exceeded(self._disagreement)
        self._preparation.source.adopt(atoms, state.prediction)
        return state

    def _warn_if_exceeded(self, disagreement: Disagreement) -> None:
        if self._has_warned:
            return
        if text := exceeded(disagreement, self._preparation.source.metadata):
            self._has_warned = True
            warnings.warn(f"after {self.nsteps} outer steps, {text}", ForceDisagreementWarning, 4)


def _labels_of(disagreement: Disagreement) -> dict[str, float]:
    """Return the entries for `atoms.info`, which ASE writes into trajectories."""
    species = {f"force_rmse_{name}": rmse for name, rmse in disagreement.species_rmse.items()}
    return species | {
        "force_rmse": disagreement.rmse,
        "correction_work": disagreement.total_work,
    }


def _remove_labels(atoms: Atoms, symbols: tuple[str, ...]) -> None:
    """Remove the entries of `atoms.info` for species that may be there no longer."""
    for symbol in symbols:
        atoms.info.pop(f"force_rmse_{symbol}", None)


def _warn_of_drift() -> None:
    warnings.warn(
        "Direct forces are not the gradient of an energy: molecular dynamics without a thermostat "
        "will drift. Use forces='hybrid'.",
        DirectForcesWarning,
        stacklevel=3,
    )
