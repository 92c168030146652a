"""Processes that run beside a measurement: helper modules and the service itself."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.runner.machine import ROOT

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 10.0


class LineProcess:
    """A process that reads lines from its standard input and answers in lines.

    Args:
        command: Command line, run in the root of the repository.
    """

    def __init__(self, command: list[str]) -> None:
        self._name = " ".join(command)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def read(self) -> str:
        """Return the next line that the process prints.

        Raises:
            RuntimeError: If the process ends instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self._name} ended with exit status {self._process.wait()}; see its output above"
            )
        return line.strip()

    def ask(self, line: str) -> str:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.read()

    def end(self, grace: float) -> None:
        """Close the input, wait `grace` seconds, then terminate the process, then kill it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        for timeout, stop in ((grace, self._process.terminate), (STOP_TIMEOUT_S, self.kill)):
            try:
                self._process.wait(timeout)
                break
            except subprocess.TimeoutExpired:
                stop()
        self._process.wait()
        self._process.stdout.close()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()


@contextmanager
def running(
    module: str, *arguments: str, python: str = sys.executable, grace: float = 0.0
) -> Iterator[LineProcess]:
    """Run a module as a separate process.

    Args:
        module: Full name, such as "bench.peers.grpc_echo".
        arguments: Arguments of its command line.
        python: Interpreter that runs it.
        grace: Seconds that the process may take to end once its input is closed.
    """
    process = LineProcess([python, "-m", module, *arguments])
    try:
        yield process
    finally:
        process.end(grace)


@contextmanager
def running_service(*flags: str) -> Iterator[tuple[str, str]]:
    """Run a service on free ports and yield its REST and gRPC addresses once it is ready.

    Args:
        flags: Further flags of `twinforce-server`.
    """
    ports = ("--rest-port=0", "--grpc-port=0")
    with running("twinforce_service.main", *ports, *flags) as server:
        yield _addresses(server)


def _addresses(server: LineProcess) -> tuple[str, str]:
    """Return the REST and gRPC addresses that a service prints when it is ready."""
    timer = threading.Timer(START_TIMEOUT_S, server.kill)
    timer.start()
    rest_url = ""
    try:
        while True:
            line = server.read()
            print(line)
            if line.startswith("REST "):
                rest_url = line.split()[-1]
            if line.startswith("gRPC "):
                return rest_url, line.split()[-1]
    finally:
        timer.cancel()
