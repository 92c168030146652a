"""Molecular dynamics with multiple time stepping, as a `MolecularDynamics` of ASE."""

import warnings
from collections.abc import Iterator
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
from twinforce.ase.restart import Restart
from twinforce.ase.sources import source_of
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
    """Dynamics on direct forces, corrected to the conservative ones every `inner_steps` steps.

    One step of ASE is one outer step: M - 1 evaluations of direct forces and one of both. With
    `forces` "conservative" or "direct" it is velocity Verlet with those, one evaluation per step,
    in the same ensembles. Evaluations go past the bookkeeping of ASE; after each outer step the
    atoms and the results of their calculator are up to date.

    Atoms may be changed between steps, by observers too: where they were moved they are evaluated
    again. Masses and constraints are read once, on construction. Momenta relative to the center
    of mass make the temperature, unless something changes the total momentum.

    Attributes:
        ensemble: What is held constant.
        forces: Which ones drive.
        inner_steps: M; 1 unless forces are hybrid.
        rng: Of all random numbers.
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
        """Say what moves, and how.

        Args:
            atoms: With a calculator that offers conservative_forces and direct_forces, such as
                TwinForceCalculator; only FixAtoms may constrain them.
            timestep: The inner one, in ASE's unit: 0.5 * units.fs.
            inner_steps: M, of hybrid forces.
            ensemble: What is held constant.
            forces: Which ones drive; "hybrid" is multiple time stepping.
            seed: Of random numbers, where no `rng` is given.
            rng: Random numbers to use.
            trajectory: As ASE has it: a file name or a writer.
            logfile: As ASE has it: a file name, an open file or "-".
            loginterval: Outer steps between what is written.
            others: For ASE's MolecularDynamics, such as append_trajectory.

        Raises:
            ValueError: These atoms cannot be moved in this way.
            UnsupportedOutputError: The model lacks forces or a stress that this needs.
        """
        check_numbers(forces, timestep, inner_steps)
        check_atoms(atoms, ensemble)
        self._source = source_of(atoms)
        check_outputs(self._source.outputs, forces, ensemble)
        super().__init__(atoms, timestep, trajectory, None, loginterval, **others)
        self.forces: ForceChoice = forces
        self.ensemble = ensemble
        self.inner_steps = int(inner_steps) if forces == "hybrid" else 1
        self.rng = np.random.default_rng(seed) if rng is None else rng
        bath = Bath(ensemble, self.masses, mobility_of(atoms), self.rng)
        self._ask_inner, self._ask_whole = map(self._source.asking, outputs_of(forces, ensemble))
        self._stepper = Stepper(forces, self.inner_steps, timestep, bath)
        self._species = Species.of(atoms.numbers)
        self._state: State | None = None
        self._disagreement: Disagreement | None = None
        self._is_warned = False
        if logfile:
            self.attach(self.closelater(StepLog(self, logfile, self.comm)), loginterval)
        if forces == "direct" and isinstance(ensemble, NVE):
            _warn_of_drift()

    @property
    def disagreement(self) -> Disagreement | None:
        """Of both forces at the end of the last outer step; None unless forces are hybrid."""
        self._current()
        return self._disagreement

    @property
    def temperature_k(self) -> float:
        """Of all atoms now, in K."""
        return self._stepper.bath.temperature_k(self._current().momenta)

    @property
    def species_temperatures(self) -> dict[str, float]:
        """Of each species now, in K, by its symbol; NaN where none of it can move."""
        symbols, indices = self._species.symbols, self._species.indices
        momenta = self._current().momenta
        _, temperatures = self._stepper.bath.temperatures_k(momenta, indices, len(symbols))
        return dict(zip(symbols, temperatures, strict=True))

    @property
    def energy(self) -> float:
        """Potential, in eV."""
        return float(self._current().prediction.energy or 0.0)

    @property
    def kinetic_energy(self) -> float:
        """In eV."""
        return kinetic_energy(self._current().momenta, self.masses)

    @property
    def volume(self) -> float | None:
        """Of the cell, in Å³; None where the system is not periodic in all directions."""
        return volume(self._current().cell) if self.atoms.pbc.all() else None

    def conserved_energy(self) -> float:
        """Return the total energy less what thermostat and barostat have put in, in eV.

        With exact forces it stays constant to second order in the time step, in every ensemble;
        its drift is the error of the forces and of the time step.
        """
        return self.energy + self.kinetic_energy - self._current().supplied

    def step(self) -> None:
        """Take one outer step."""
        before = self._current()
        self._arrive(self._answered(self._stepper.step(before)), before.correction_work)

    def irun_on_server(self, n_outer: int, interval: int = 1) -> Iterator[bool]:
        """Take outer steps on the server, where nothing travels between them.

        Physics and random numbers are those of `irun`. Atoms, results and everything else are up
        to date at each interval; observers are not called.

        Args:
            n_outer: How many.
            interval: After how many of them, and at the end, to yield; the start comes first if it
                was not evaluated yet.

        Yields:
            Whether that was the last one.

        Raises:
            ValueError: The calculator asks no service.
            ServiceError: What went wrong.
        """
        end = self.nsteps + n_outer
        integrator = Integrator(
            time_step=float(self.dt),
            force_kind=self.forces,
            inner_steps=self.inner_steps,
            ensemble=self.ensemble,
        )
        at = None if self._state is None else (self._current(), self.nsteps * self.inner_steps)
        for snapshot in propagate(self.atoms, integrator, self.rng, at, n_outer, interval):
            self._catch_up(snapshot)
            yield self.nsteps == end

    def _catch_up(self, snapshot: Snapshot) -> None:
        checkpoint = Checkpoint.from_bytes(snapshot.checkpoint)
        self.nsteps = checkpoint.step // self.inner_steps
        self.rng.bit_generator.state = checkpoint.start.random_state
        state, disagreement = checkpoint.state, snapshot.disagreement
        work = 0.0 if disagreement is None else disagreement.work
        self._arrive(state, state.correction_work - work)

    def get_time(self) -> float:
        """Return how long it has run, in ASE's unit."""
        return float(self.nsteps * self.inner_steps * self.dt)

    def todict(self) -> dict[str, Any]:
        """Return what ASE writes into trajectories."""
        described: dict[str, Any] = super().todict()
        return described | self._settings()

    def save(self, path: Path | str) -> None:
        """Save all that the next step depends on, as .npz; `restore` goes on from it."""
        Restart(
            state=self._current(),
            numbers=self.atoms.numbers,
            masses=self.masses[:, 0],
            n_steps=self.nsteps,
            settings=self._settings(),
            rng=self.rng.bit_generator.state,
        ).save(path)

    def restore(self, path: Path | str) -> None:
        """Go on from what was saved, bit for bit; the atoms are moved to where they were.

        Raises:
            ValueError: It is no such file, or of other atoms, masses or settings.
        """
        saved = Restart.load(path)
        saved.check(path, self.atoms.numbers, self.masses[:, 0], self._settings())
        self.rng.bit_generator.state = saved.rng
        self.nsteps = saved.n_steps
        self._is_warned = False
        self._arrive(saved.state, saved.state.correction_work)

    def _settings(self) -> dict[str, str]:
        return {
            "time-step": repr(float(self.dt)),
            "inner-steps": str(self.inner_steps),
            "forces": self.forces,
            "ensemble": repr(self.ensemble),
        }

    def _refresh_properties(self) -> None:
        """Be ready for observers, as ASE asks for: evaluate the start, once."""
        self._current()

    def _current(self) -> State:
        """Return the state that the atoms are in; evaluate them if they were moved."""
        momenta = self.atoms.arrays["momenta"].copy()
        if self._state is not None and self._is_here(self._state):
            self._state = replace(self._state, momenta=momenta)
            return self._state
        mobile = self._stepper.bath.mobile
        state = self._answered(
            self._stepper.start(
                self.atoms.arrays["positions"].copy(),
                momenta if mobile is None else momenta * mobile,
                self.atoms.cell.array.copy(),
            )
        )
        before = state if self._state is None else self._state
        work = before.correction_work
        state = replace(state, supplied=before.supplied, correction_work=work)
        return self._arrive(state, work)

    def _answered(self, steps: Steps[State]) -> State:
        return complete(steps, self._ask_inner, self._ask_whole)

    def _is_here(self, state: State) -> bool:
        return np.array_equal(self.atoms.arrays["positions"], state.positions) and np.array_equal(
            self.atoms.cell.array, state.cell
        )

    def _arrive(self, state: State, work_before: float) -> State:
        """Bring the atoms, the results of their calculator and the disagreement up to date."""
        self._state = state
        atoms = self.atoms
        atoms.arrays["positions"][:] = state.positions
        atoms.arrays["momenta"][:] = state.momenta
        atoms.cell[:] = state.cell
        if self.forces == "hybrid":
            self._disagreement = disagreement_of(self._species, state, work_before)
            atoms.info.update(_labels_of(self._disagreement))
            self._warn_of(self._disagreement)
        self._source.adopt(atoms, state.prediction)
        return state

    def _warn_of(self, disagreement: Disagreement) -> None:
        if self._is_warned:
            return
        if text := exceeded(disagreement, self._source.metadata):
            self._is_warned = True
            warnings.warn(f"after {self.nsteps} outer steps, {text}", ForceDisagreementWarning, 4)


def _labels_of(disagreement: Disagreement) -> dict[str, float]:
    """Return what goes into `atoms.info`, and so into trajectories."""
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
