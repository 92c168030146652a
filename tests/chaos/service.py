"""The service under attack: a server process, its engine processes, and their memory."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.ports import free_ports
from tests.service import troubled

WATCHDOG = 4.0
_LONGEST_START = 300.0
_LONGEST_STOP = 120.0


class Service:
    """A server with a potential that can be paused, and that ends its process on demand.

    Args:
        folder: An empty folder.
        host: Address to listen on.
        prefix: Command that runs the server, such as one that enters a network namespace.
        ports: Ports of REST, of gRPC and of health without keys; None picks those that are free.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        ports: Sequence[int] | None = None,
    ) -> None:
        troubled.install(folder / "site")
        self._gate = troubled.write(folder / "model")
        self._folder, self._host, self._prefix = folder, host, prefix
        self._ports = ports or free_ports()
        self.process = self._start()
        try:
            self.wait_until_ready()
        except RuntimeError:
            self.process.kill()
            raise

    @property
    def urls(self) -> tuple[str, str]:
        """Addresses of both transports."""
        return f"grpc://{self._host}:{self._ports[1]}", f"http://{self._host}:{self._ports[0]}"

    def is_ready(self) -> bool:
        """Return True if the service says that it is ready."""
        try:
            reply = httpx2.get(f"{self.urls[1]}/health/ready", timeout=2.0, trust_env=False)
        except httpx2.TransportError:
            return False
        return bool(reply.status_code == 200)

    def wait_until_ready(self, since: int | None = None) -> None:
        """Return once the service is ready; if `since` is given, with another engine than that."""
        until = time.monotonic() + _LONGEST_START
        while not (self.is_ready() and self.engines() and self.engines() != [since]):
            if time.monotonic() > until or self.process.poll() is not None:
                raise RuntimeError(f"the service did not become ready; see {self._folder}/log")
            time.sleep(0.02)

    def wait_until_not_ready(self) -> float:
        """Return after how many seconds the service says that it is not ready."""
        began = time.monotonic()
        while self.is_ready():
            if time.monotonic() > began + _LONGEST_START:
                raise RuntimeError(f"the service did not notice; see {self._folder}/log")
            time.sleep(0.02)
        return time.monotonic() - began

    def engines(self) -> list[int]:
        """Return the ids of the engine processes."""
        return _children(self.server_pid())

    def server_pid(self) -> int:
        """Return the id of the server process, which the prefix may have started."""
        return self.process.pid

    def close_gate(self) -> None:
        """Let evaluations of helium wait."""
        self._gate.write_text("0")

    def open_gate(self) -> None:
        """Let evaluations of helium go on."""
        self._gate.unlink(missing_ok=True)

    def restart(self, number: int, pause: float) -> None:
        """End the server with a signal, and start it anew on the same ports after a pause."""
        self.process.send_signal(number)
        self.process.wait(_LONGEST_STOP)
        time.sleep(pause)
        self.process = self._start()

    def memory(self) -> tuple[int, int]:
        """Return the resident memory of the server and of its engines, in MB."""
        engines = sum(_resident(pid) for pid in self.engines())
        return _resident(self.server_pid()), engines

    def stop(self) -> int:
        """Stop the service and return its exit code."""
        self.open_gate()
        for pid in self.engines():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_LONGEST_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join([str(self._folder / "site"), *sys.path])
        ports = ["--rest-port", str(self._ports[0]), "--grpc-port", str(self._ports[1])]
        ports += ["--metrics-port", str(self._ports[2]), "--metrics-host", self._host]
        program = [sys.executable, "-m", "twinforce_service.main", "--host", self._host, *ports]
        model = ["--no-water", "--model", f"troubled={self._folder / 'model'}", "--compile", "off"]
        limits = ["--watchdog", str(WATCHDOG), "--max-waiting", "512"]
        if self._prefix:  # its network is reached from this machine only
            limits.append("--insecure")
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._prefix, *program, *model, *limits],
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )


def _children(pid: int) -> list[int]:
    """Return the ids of the processes that any thread of a process has started."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(each) for each in path.read_text().split()]
        except OSError:  # the thread has ended
            continue
    return sorted(found)


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE") // 2**20
