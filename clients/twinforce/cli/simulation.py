"""The run of `twinforce md`: its start, its loop and its end."""

import argparse
from contextlib import nullcontext
from typing import Any

import numpy as np

from twinforce.cli.files import require
from twinforce.cli.progress import ProgressMeter, say
from twinforce.cli.signals import Interrupted, StopRequest
from twinforce.md import Instant, MDSettings, dynamics_of, follow, follow_on_server, plot_runs
from twinforce.md.run_files import RunFiles
from twinforce.md.running import n_outer_steps
from twinforce.md.settings import ensemble_of
from twinforce.md.summary import RunSummary
from twinforce.restart import Restart
from twinforce_dynamics.bath import Bath


class Simulation:
    """A run of molecular dynamics with its files and its messages.

    Args:
        atoms: Atoms with a calculator.
        settings: Settings of the run.
        args: Arguments of the command line.

    Raises:
        ValueError: The run cannot start, or cannot continue from these files; none was touched.
    """

    def __init__(self, atoms: Any, settings: MDSettings, args: argparse.Namespace) -> None:
        self._args = args
        self._n_atoms = len(atoms)
        self._is_continued = args.restart is not None and args.restart.exists()
        self._dynamics = dynamics_of(atoms, settings, args.restart if self._is_continued else None)
        if not self._is_continued:
            _check_motion(atoms, settings)
        self._n_outer = n_outer_steps(self._dynamics, settings)
        self._states = (
            follow_on_server(
                self._dynamics, settings, args.interval, is_restored=self._is_continued
            )
            if args.on_server
            else follow(self._dynamics, settings)
        )
        self._files = RunFiles(
            self._dynamics,
            log=args.log,
            trajectory=args.trajectory,
            restart=args.restart,
            saved=Restart.load(args.restart).files if self._is_continued else None,
        )
        self._summary = RunSummary(settings, len(atoms))
        self._plotted: list[Instant] = []
        self._last: Instant

    def run(self, remarks: list[str]) -> None:
        """Run to the end, or to a signal, and say what came of it.

        Args:
            remarks: Lines about the start, shown once it is clear that the run can begin.

        Raises:
            Interrupted: A signal asked to stop; files and restart file are at the last step.
        """
        stop = StopRequest()
        with self._files:
            try:
                with nullcontext() if self._args.on_server else stop.listening():
                    self._start(remarks)
                    self._follow(stop)
                self._files.save()
            finally:
                self._finish()
        if stop.number is not None:
            raise Interrupted(stop.number)

    def _start(self, remarks: list[str]) -> None:
        """Evaluate the start, which the service may refuse, and only then open the files."""
        start = next(self._states)
        done = self._files.open()
        if self._is_continued:
            remarks = [*remarks, f"{self._args.restart}: continues at step {start.step}"]
        for remark in [*remarks, f"start at {start.temperature_k:.0f} K", *done]:
            self._say(remark)
        self._show(start, is_due=not self._is_continued)

    def _follow(self, stop: StopRequest) -> None:
        n_inner = self._dynamics.inner_steps
        n_start = self._dynamics.get_number_of_steps() * n_inner
        with ProgressMeter(
            self._n_outer * n_inner, "steps", initial=n_start, is_quiet=self._args.quiet
        ) as meter:
            while stop.number is None and (state := next(self._states, None)) is not None:
                meter.update(state.step, f"{state.temperature_k:.0f} K")
                n_outer = state.step // n_inner
                self._show(state, is_due=n_outer % self._args.interval == 0)

    def _show(self, state: Instant, *, is_due: bool) -> None:
        """Count a state, and write it if it is due."""
        self._summary.add(state)
        if is_due:
            self._files.write(state)
        self._last = state
        if self._args.plot and (is_due or not self._plotted):
            self._plotted.append(state)

    def _finish(self) -> None:
        lines = self._summary.lines()
        if lines and self._files.n_saved is not None:
            n_steps = self._files.n_saved * self._dynamics.inner_steps
            lines.append(f"{self._args.restart}: saved at step {n_steps}")
        for line in lines:
            self._say(line)
        if self._plotted:
            is_last_due = self._plotted[-1] is self._last
            states = self._plotted if is_last_due else [*self._plotted, self._last]
            plot_runs({"run": states}, self._n_atoms, self._args.plot)

    def _say(self, text: str) -> None:
        if not self._args.quiet:
            say(text)


def _check_motion(atoms: Any, settings: MDSettings) -> None:
    """Check that the thermostat can act on these velocities.

    Raises:
        ValueError: It rescales velocities that are zero, or some are not finite.
    """
    checks = require("twinforce.ase.checks")
    mobile, momenta = checks.mobility_of(atoms), atoms.get_momenta()
    checks.check_momenta(atoms, momenta)
    bath = Bath(
        ensemble_of(settings),
        atoms.get_masses()[:, None],
        mobile,
        np.random.default_rng(settings.seed),
    )
    try:
        bath.check_motion(momenta if mobile is None else momenta * mobile)
    except ValueError as error:
        raise ValueError(f"{error}, for example with --new-velocities") from error
