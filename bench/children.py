"""Processes that a measurement runs beside itself and talks to in lines."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.machine import ROOT


class Child:
    """A process that answers in lines.

    Args:
        command: What runs, in the root of the repository.
    """

    def __init__(self, command: list[str]) -> None:
        self._name = " ".join(command)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def read(self) -> str:
        """Wait for a line.

        Raises:
            RuntimeError: When the process ends instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}, see above")
        return line.strip()

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.read()

    def end(self, grace: float) -> None:
        """Close its input, and kill it if it has not ended within `grace` seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def running(
    module: str, *arguments: str, python: str = sys.executable, grace: float = 0.0
) -> Iterator[Child]:
    """Run a module as a process of its own.

    Args:
        module: Such as "bench.echo".
        arguments: Of its command line.
        python: What runs it.
        grace: How long it has to end once its input is closed, in s.
    """
    child = Child([python, "-m", module, *arguments])
    try:
        yield child
    finally:
        child.end(grace)
