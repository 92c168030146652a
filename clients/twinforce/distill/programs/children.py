"""Programs that a distillation runs: services and trainings, which end with it."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from twinforce_proto import ServiceError

_GUARD = Path(__file__).with_name("guard.py")
_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 30.0
_N_QUOTED = 6
# The line of a program's output that says why it failed.
_IS_ERROR = re.compile(r"twinforce[\w-]*: error: |(\w+\.)*\w+(Error|Exception): ")
# Modules that the programs need -> the extra that installs them.
_EXTRAS = {
    "server": ("fastapi", "uvicorn", "pydantic_settings", "torch", "safetensors", "vesin"),
    "training": ("ase", "matplotlib", "torch", "tqdm"),
}


class ChildFailedError(ServiceError):
    """A program that the distillation ran has failed; the message quotes its log."""


class Child:
    """A program that runs until it ends or is stopped, with its output in a file.

    Args:
        command: The program and its arguments.
        log: File to which its output is appended.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            self._n_before = file.tell()
            self._guard = subprocess.Popen(
                [sys.executable, str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TQDM_DISABLE": "1"},  # its bars would fill the log
                start_new_session=True,  # Ctrl-C reaches this process only, which stops the child
            )

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return self._guard.poll()

    def output(self) -> str:
        """Return the output so far."""
        with self.log.open("rb") as file:
            file.seek(self._n_before)
            return file.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        if self._guard.stdin is not None:
            with suppress(OSError):
                self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()

    def failure(self, title: str) -> ChildFailedError:
        """Return the error that says that it failed, with the end of its output."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        errors = [line for line in lines if _IS_ERROR.match(line)]
        quoted = errors[-1:] or lines[-_N_QUOTED:]
        reason = "; ".join(quoted) or f"exit status {self.status}"
        return ChildFailedError(f"{title} failed: {reason} (all of its output: {self.log})")


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[Child]:
    """Run a program inside this context."""
    child = Child(command, log)
    try:
        yield child
    finally:
        child.stop()


def wait_for(
    child: Child, is_reached: Callable[[], bool], title: str, *, timeout_s: float | None = None
) -> None:
    """Wait until something is reached.

    Raises:
        ChildFailedError: The program ended before, or the time is over.
    """
    begin = time.monotonic()
    while not is_reached():
        if child.status is not None and not is_reached():
            raise child.failure(title)
        if timeout_s is not None and time.monotonic() - begin > timeout_s:
            raise ChildFailedError(f"{title} is not ready after {timeout_s:g} s (see {child.log})")
        time.sleep(_INTERVAL_S)


def check_installed() -> None:
    """Check that the service and the training can run here.

    Raises:
        ModuleNotFoundError: A package is missing; the message names the extras to install.
    """
    for modules in _EXTRAS.values():
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(
                    f"distillation starts a service and trains a network here, which needs "
                    f"{module}: pip install 'twinforce[cli,{','.join(_EXTRAS)}]', and the extra "
                    "of the teacher's family, such as mace"
                )
