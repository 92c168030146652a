"""The engine process as its parent sees it: start it, kill it, and clean up after it.

Each of the two notices when the other one exits, for whatever reason: the parent reads the end of
the socket between them, the child reads the end of a pipe that nothing is written to. All temporary
files of the child, such as unpacked machine code, are in a private directory that the survivor
removes.
"""

import contextlib
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twinforce_service.engine.spec import EngineSpec
from twinforce_service.environments.environment import Environment
from twinforce_service.environments.source import lendable_roots
from twinforce_service.process import channel
from twinforce_service.process.pulse import SharedPulse
from twinforce_service.process.turns import TurnOf
from twinforce_service.version import service_version

_COUNTERS = "counters"
# File that says why an environment cannot run an engine, and the program that writes it.
_FAILURE = "failure"
_ENTRANCE = Path(__file__).with_name("entrance.py")
_PROGRAM = "twinforce_service.process.engine_process"
# Seconds that a process gets to exit after its standard input was closed, and after it was killed:
# a driver that hangs can keep it from ending.
_EXIT_TIME, _KILL_TIME = 2.0, 5.0
_STANDARD_ERROR = 2
# Variables that would lead another Python, or a program that it starts, to our packages.
_OF_OUR_PYTHON = frozenset({"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"})


class Counters:
    """Numbers of requests and atoms that have left the queue of the child.

    The child writes them and the parent reads them, in shared memory.

    Args:
        directory: Directory of the file that is mapped.
    """

    def __init__(self, directory: Path) -> None:
        with (directory / _COUNTERS).open("r+b") as file:
            self._values = memoryview(mmap.mmap(file.fileno(), 16)).cast("q")

    @classmethod
    def create(cls, directory: Path) -> "Counters":
        """Return counters, both zero, in a new file."""
        (directory / _COUNTERS).write_bytes(bytes(16))
        return cls(directory)

    def set(self, n_requests: int, n_atoms: int) -> None:
        """Write both counters."""
        self._values[0] = n_requests
        self._values[1] = n_atoms

    def get(self) -> tuple[int, int]:
        """Return the numbers of requests and of atoms."""
        return self._values[0], self._values[1]


class ChildProcess:
    """An engine process that has just been started.

    Args:
        spec: Specification of its engine.
        environment: Environment of Python that it runs in.
        turn: Place of the engine among those that share its device, if there are others.

    Attributes:
        channel: Channel to the process; it ends when the process exits.
        counters: Counters of its queue.
        pulse: Its signs of life.
    """

    def __init__(
        self, spec: EngineSpec, environment: Environment, turn: TurnOf | None = None
    ) -> None:
        self._turn = turn
        self._directory = _private_directory()
        with contextlib.ExitStack() as stack:  # cleans up if the process cannot be started
            stack.callback(self._remove_files)
            self.counters = Counters.create(self._directory)
            self.pulse = SharedPulse.create(self._directory, spec.limits.max_batch_atoms)
            self.channel, theirs = channel.pair()
            stack.callback(self.channel.close)
            with theirs:
                self._process = _start(spec, environment, self._directory, theirs.fileno(), turn)
            stack.pop_all()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> str:
        """Make sure that the process has exited, clean up, and return how it exited."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code: int | None = self._process.wait(_EXIT_TIME)
        except subprocess.TimeoutExpired:
            code = self._kill()
        self.channel.close()
        if self._turn is not None:
            self._turn.turns.forget(self._turn.index)
        failure = _failure_in(self._directory)
        self._remove_files()
        if failure:
            return failure
        if code is None:
            return f"its process {self.pid} cannot be killed, and was left behind"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process exited with code {code}"

    def _kill(self) -> int | None:
        """End the process and return its exit code; None if the kernel does not end it."""
        self._process.kill()
        try:
            return self._process.wait(_KILL_TIME)
        except subprocess.TimeoutExpired:
            return None

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _start(
    spec: EngineSpec,
    environment: Environment,
    directory: Path,
    connected: int,
    turn: TurnOf | None,
) -> "subprocess.Popen[bytes]":
    """Start the process and send it the specification."""
    shared = [] if turn is None else [turn.turns.descriptor, turn.index]
    process = subprocess.Popen(
        [*_program(environment, directory), *map(str, [directory, connected, *shared])],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=_STANDARD_ERROR,
        pass_fds=[connected, *shared[:1]],
        env=_variables(environment) | {"TMPDIR": str(directory)},
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the reader of the channel notices an early exit
        process.stdin.write(spec.to_json().encode() + b"\n")
    return process


def _program(environment: Environment, directory: Path) -> list[str]:
    """Return the command that runs an engine, without its arguments."""
    if environment.python is None:
        return [sys.executable, "-P", "-m", _PROGRAM]
    # Isolated: nothing but the packages of the environment is on the import path.
    lent = os.pathsep.join(map(str, lendable_roots()))
    failure = str(directory / _FAILURE)
    return [environment.python, "-I", str(_ENTRANCE), service_version(), lent, failure]


def _variables(environment: Environment) -> dict[str, str]:
    """Return the environment variables of an engine."""
    if environment.is_main:
        return os.environ | {"PYTHONPATH": _import_path()}
    return {name: value for name, value in os.environ.items() if name not in _OF_OUR_PYTHON}


def _failure_in(directory: Path) -> str:
    """Return why the environment cannot run an engine, if that is so."""
    path = directory / _FAILURE
    return path.read_text() if path.is_file() else ""


def _private_directory() -> Path:
    """Return a new directory that only this user can enter."""
    return Path(tempfile.mkdtemp(prefix="twinforce-"))


def _import_path() -> str:
    """Return the import path of this process, so that the child imports the same modules."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
