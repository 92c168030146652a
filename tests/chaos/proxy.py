"""A proxy before three replicas."""

import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.chaos.network import Unsupported
from tests.ports import free_ports

# Addresses of the replicas, all of which use the same ports, as hosts of their own would.
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
LONGEST_START = 60.0
# Seconds that a reloaded process keeps old streams.
HARD_STOP_S = 2


class Proxy(ABC):
    """A proxy before three replicas, with the settings that the documentation recommends.

    Args:
        folder: Folder for its log and its settings.
        ports: Ports of REST, of gRPC and of health of the replicas.
    """

    program: str
    """Name of the program."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self.ports = tuple(ports)
        self.grpc_port, self.rest_port = free_ports(n_ports=2)
        self._log = folder / f"{self.program}.log"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def urls(self) -> tuple[str, str]:
        """Addresses of both transports."""
        return f"grpc://127.0.0.1:{self.grpc_port}", f"http://127.0.0.1:{self.rest_port}"

    @classmethod
    def path(cls) -> str | None:
        """Return the path of the program; None if it is not installed."""
        folders = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin"]
        return shutil.which(cls.program, path=os.pathsep.join(folders))

    @abstractmethod
    def command(self, earlier: Sequence[int]) -> Sequence[str]:
        """Return the arguments of a process that replaces those started earlier, by their ids."""

    def environment(self) -> dict[str, str]:
        """Return the variables of its processes."""
        return dict(os.environ)

    def start(self) -> None:
        """Start it and wait until it leads to a replica; raise `Unsupported` if it is absent."""
        self._start()
        until = time.monotonic() + LONGEST_START
        while not self._is_ready():
            if time.monotonic() > until or self._processes[-1].poll() is not None:
                raise RuntimeError(f"the proxy did not become ready: {self._log.read_text()}")
            time.sleep(0.02)

    def reload(self) -> None:
        """Start a new process, which takes the port over, and wait until the old one has ended."""
        old = self._processes[-1]
        self._start()
        old.wait(LONGEST_START)

    def stop(self) -> None:
        """End all processes."""
        for each in self._processes:
            with suppress(ProcessLookupError):
                each.send_signal(signal.SIGTERM)
            each.wait(LONGEST_START)

    def _start(self) -> None:
        program = self.path()
        if program is None:
            raise Unsupported(f"there is no command `{self.program}`")
        with self._log.open("ab") as log:
            command = [program, *self.command([each.pid for each in self._processes])]
            started = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log)
        self._processes.append(started)

    def _is_ready(self) -> bool:
        try:
            reply = httpx2.get(f"{self.urls[1]}/health/ready", timeout=2.0, trust_env=False)
        except httpx2.TransportError:
            return False
        return bool(reply.status_code == 200)
