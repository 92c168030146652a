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

import numpy as np

from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process import channel

_COUNTERS = "counters"
_PROGRAM = "twinforce_service.process.engine_process"
# Seconds that a process gets to exit after its standard input was closed.
_EXIT_TIME = 2.0
_STANDARD_ERROR = 2


class Counters:
    """Numbers of requests and atoms that have left the queue of the child.

    The child writes them and the parent reads them, in shared memory.

    Args:
        directory: Directory of the file that is mapped.
    """

    def __init__(self, directory: Path) -> None:
        with (directory / _COUNTERS).open("r+b") as file:
            self._values = np.frombuffer(mmap.mmap(file.fileno(), 16), np.int64)

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
        return int(self._values[0]), int(self._values[1])


class ChildProcess:
    """An engine process that has just been started.

    Args:
        spec: Specification of its engine.

    Attributes:
        channel: Channel to the process; it ends when the process exits.
        counters: Counters of its queue.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._directory = _private_directory()
        with contextlib.ExitStack() as stack:  # cleans up if the process cannot be started
            stack.callback(self._remove_files)
            self.counters = Counters.create(self._directory)
            self.channel, theirs = channel.pair()
            stack.callback(self.channel.close)
            with theirs:
                self._process = _start(spec, self._directory, theirs.fileno())
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
            code = self._process.wait(_EXIT_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self.channel.close()
        self._remove_files()
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process exited with code {code}"

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _start(spec: EngineSpec, directory: Path, connected: int) -> "subprocess.Popen[bytes]":
    """Start the process and send it the specification."""
    command = [sys.executable, "-P", "-m", _PROGRAM, str(directory), str(connected)]
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=_STANDARD_ERROR,
        pass_fds=[connected],
        env=os.environ | {"PYTHONPATH": _import_path(), "TMPDIR": str(directory)},
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the reader of the channel notices an early exit
        process.stdin.write(spec.to_json().encode() + b"\n")
    return process


def _private_directory() -> Path:
    """Return a new directory that only this user can enter."""
    return Path(tempfile.mkdtemp(prefix="twinforce-"))


def _import_path() -> str:
    """Return the import path of this process, so that the child imports the same modules."""
    return os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
