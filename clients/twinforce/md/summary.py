"""The end of a run's report: its speed, its temperature, its drift, and what was evaluated."""

import time
from collections.abc import Callable

from twinforce.md.averages import BlockAverages, Mean
from twinforce.md.drift import Drift, fit_drift
from twinforce.md.instants import Instant
from twinforce.md.settings import MDSettings

_TIME, _TEMPERATURE, _CONSERVED, _DISAGREEMENT = range(4)
_SECONDS_PER_DAY = 86_400.0
# Errors below this, in meV/atom/ps, would be rounded to zero.
_SMALL_ERROR = 0.0005
# Times below this, in s, are shown with two digits instead of in tenths.
_SMALL_TIME_S = 1.0


class RunSummary:
    """A summary of the states that a run has shown, of which it keeps averages only.

    Args:
        settings: Settings of the run.
        n_atoms: Number of atoms.
        clock: Clock in s, which starts now.
    """

    def __init__(
        self, settings: MDSettings, n_atoms: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._n_atoms = n_atoms
        self._clock = clock
        self._began = self._ended = clock()
        self._averages = BlockAverages()
        self._first: Instant | None = None
        self._last: Instant | None = None

    def add(self, instant: Instant) -> None:
        """Add a state of the run; the first one is its start."""
        self._ended = self._clock()
        self._last = instant
        if self._first is None:
            self._first = instant
            self._began = self._ended
        disagreement = instant.disagreement
        self._averages.add(
            (
                instant.time_fs,
                instant.temperature_k,
                instant.conserved_energy,
                0.0 if disagreement is None else disagreement.rmse,
            )
        )

    @property
    def drift(self) -> Drift | None:
        """Drift of the conserved energy; None if the run is too short to tell."""
        blocks = self._averages.blocks
        if len(blocks) == 0:
            return None
        return fit_drift(blocks[:, _TIME], blocks[:, _CONSERVED], self._n_atoms)

    def lines(self) -> list[str]:
        """Return the summary; no lines if no state was shown."""
        if self._first is None or self._last is None:
            return []
        lines = [self._speed(self._first, self._last), self._temperature(self._last)]
        if self._last is not self._first:
            lines += [self._drift(), self._evaluations(self._first, self._last)]
        return lines

    def _speed(self, first: Instant, last: Instant) -> str:
        n_steps, seconds = last.step - first.step, self._ended - self._began
        text = f"{counted(last.step, 'step')}, {last.time_fs * 1e-3:g} ps"
        if first.step:
            text += f", of which {counted(n_steps, 'step')} now"
        if n_steps == 0:
            return text
        text += f", in {seconds:.1f} s" if seconds >= _SMALL_TIME_S else f", in {seconds:.2g} s"
        if seconds > 0.0:
            ns_per_day = (last.time_fs - first.time_fs) * 1e-6 / seconds * _SECONDS_PER_DAY
            text += f": {n_steps / seconds:.3g} steps/s, {ns_per_day:.3g} ns/day"
        return text

    def _temperature(self, last: Instant) -> str:
        mean = _with_error(self._averages.mean(_TEMPERATURE), ".1f")
        return f"temperature {mean} K on average, final temperature {last.temperature_k:.1f} K"

    def _drift(self) -> str:
        drift = self.drift
        if drift is None:
            return "too few states for the drift of the conserved energy"
        digits = ".3f" if drift.error >= _SMALL_ERROR else ".1e"
        return (
            f"drift of the conserved energy {drift.rate:+{digits}} ± {drift.error:{digits}} "
            "meV/atom/ps" + (" (the total energy)" if self._settings.ensemble == "nve" else "")
        )

    def _evaluations(self, first: Instant, last: Instant) -> str:
        n_steps = last.step - first.step
        if self._settings.forces != "hybrid":
            return f"{counted(n_steps, 'step')} with {self._settings.forces} forces"
        n_outer = n_steps // self._settings.inner_steps
        mean = _with_error(self._averages.mean(_DISAGREEMENT), ".4f")
        return (
            f"{counted(n_steps - n_outer, 'step')} with direct forces only, {n_outer} with both "
            f"kinds; they differ by {mean} eV/Å (root mean square, on average)"
        )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _with_error(mean: Mean, digits: str) -> str:
    error = "" if mean.error is None else f" ± {mean.error:{digits}}"
    return f"{mean.value:{digits}}{error}"
