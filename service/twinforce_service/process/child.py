"""The process of an engine as its parent sees it: started, talked to, found dead, cleaned up.

Whichever dies, however it dies, the other one reads the end: the parent that of the socket between
them, the child that of a pipe that nobody writes to. All temporary files of the child, such as
unpacked machine code, lie in a directory of their own, which who is left removes.
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
# How long a process that was told to end has to do so, in s.
_LAST_GRACE = 2.0
_STANDARD_ERROR = 2


class Counters:
    """How many requests and atoms have left the queue of the child; it writes, the parent reads.

    Args:
        directory: Where the file of the counters is.
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
        """Say how many have left."""
        self._values[0] = n_requests
        self._values[1] = n_atoms

    def get(self) -> tuple[int, int]:
        """Return how many have left."""
        return int(self._values[0]), int(self._values[1])


class Child:
    """An engine process that has just been started.

    Args:
        spec: What its engine is to be.

    Attributes:
        channel: To the process; ends when it does.
        counters: Of its queue.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._directory = _private_directory()
        with contextlib.ExitStack() as stack:  # of what to undo if it cannot be started
            stack.callback(self._remove_files)
            self.counters = Counters.create(self._directory)
            self.channel, theirs = channel.pair()
            stack.callback(self.channel.close)
            with theirs:
                self._process = _started(spec, self._directory, theirs.fileno())
            stack.pop_all()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def end(self) -> str:
        """End the process, if it has not ended, leave nothing behind, and say how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(_LAST_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self.channel.close()
        self._remove_files()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _remove_files(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _started(spec: EngineSpec, directory: Path, connected: int) -> "subprocess.Popen[bytes]":
    """Start the process and tell it what it is to be."""
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
    with contextlib.suppress(BrokenPipeError):  # it has died already, which will be noticed
        process.stdin.write(spec.to_json().encode() + b"\n")
    return process


def _private_directory() -> Path:
    """Return a new directory that only this user can enter."""
    return Path(tempfile.mkdtemp(prefix="twinforce-"))


def _import_path() -> str:
    """Return where this process imports from, so that the child finds the same."""
    return os.pathsep.join(str(Path(each).absolute()) for each in sys.path)
