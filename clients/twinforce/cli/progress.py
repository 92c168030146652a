"""Progress of a command on standard error, and messages there."""

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from twinforce._transports.url import default_url
from twinforce.cli.files import require

_SECONDS_BETWEEN_LINES = 30.0


def say(text: str) -> None:
    """Write a line to standard error; work goes on if nobody can read it any more."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def suggest(args: argparse.Namespace, *commands: Sequence[str]) -> None:
    """Show commands that a user may want next, on a terminal only.

    Args:
        args: Arguments of this command, whose service the next one is to use.
        commands: Words of each command, without the name of the program.
    """
    if sys.stderr.isatty():
        url = [] if args.url == default_url() else ["--url", args.url]
        for words in commands:
            say(f"next: {shlex.join(['twinforce', *words, *url])}")


class ProgressMeter:
    """A progress bar on a terminal; elsewhere, a line every half a minute.

    Args:
        total: Amount of work.
        unit: Its unit, as a plural noun.
        initial: Amount that was done before.
        is_quiet: True to show nothing.
        clock: Clock in s.
    """

    def __init__(
        self,
        total: int,
        unit: str,
        *,
        initial: int = 0,
        is_quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._unit, self._initial = total, unit, initial
        self._is_quiet = is_quiet
        self._clock = clock
        self._began = self._spoke = clock()
        self._bar: Any = require("tqdm").tqdm(
            total=total,
            initial=initial,
            unit=f" {unit}",
            disable=True if is_quiet else None,
            smoothing=0.1,
        )

    def update(self, n_done: int, note: str = "") -> None:
        """Show how much is done, of the total.

        Args:
            n_done: Amount of work done, that of earlier runs included.
            note: Text to show with it.
        """
        if not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(n_done - self._bar.n)
        elif not self._is_quiet and self._clock() - self._spoke >= _SECONDS_BETWEEN_LINES:
            self._spoke = self._clock()
            say(self._line(n_done, note))

    def close(self) -> None:
        """Remove or end the bar."""
        self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, n_done: int, note: str) -> str:
        seconds = self._clock() - self._began
        rate = (n_done - self._initial) / seconds if seconds > 0.0 else 0.0
        parts = [f"{n_done} of {self._total} {self._unit}", f"{rate:.3g} {self._unit}/s"]
        if rate > 0.0:
            parts.append(f"{duration((self._total - n_done) / rate)} left")
        return ", ".join([*parts, *([note] if note else [])])


def duration(seconds: float) -> str:
    """Return a time with a unit that suits it, such as 3 h."""
    for name, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{max(seconds, 0.0):.0f} s"
