"""HAProxy before three replicas, with the settings that the documentation recommends."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.chaos.network import Unsupported
from tests.chaos.service import free_ports

SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "haproxy.cfg"
# Addresses of the replicas, all of which use the same ports, as hosts of their own would.
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
_PROGRAM = "haproxy"
# Seconds that a reloaded process keeps old streams; the default is 30.
_HARD_STOP_S = 2
_LONGEST_START = 60.0


class HAProxy:
    """A proxy before three replicas.

    Args:
        folder: Folder for its log.
        ports: Ports of REST, of gRPC and of health of the replicas.
    """

    def __init__(self, folder: Path, ports: tuple[int, int, int]) -> None:
        self._log = folder / "haproxy.log"
        rest, grpc, health = ports
        self._listen = free_ports()[:2]
        named = dict(zip(("SERVER_A", "SERVER_B", "SERVER_C"), HOSTS, strict=True))
        numbers = {"REST": rest, "GRPC": grpc, "HEALTH": health}
        named |= {f"PORT_{name}": str(number) for name, number in numbers.items()}
        named |= {"LISTEN_GRPC": str(self._listen[0]), "LISTEN_REST": str(self._listen[1])}
        named |= {"LISTEN": "127.0.0.1", "HARD_STOP_AFTER": f"{_HARD_STOP_S}s"}
        self._environment = os.environ | named
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def urls(self) -> tuple[str, str]:
        """Addresses of both transports."""
        return f"grpc://127.0.0.1:{self._listen[0]}", f"http://127.0.0.1:{self._listen[1]}"

    def start(self) -> None:
        """Start it and wait until it leads to a replica; raise `Unsupported` if it is absent."""
        self._start()
        until = time.monotonic() + _LONGEST_START
        while not self._is_ready():
            if time.monotonic() > until or self._processes[-1].poll() is not None:
                raise RuntimeError(f"the proxy did not become ready: {self._log.read_text()}")
            time.sleep(0.02)

    def reload(self) -> None:
        """Start a new process, which takes the port over, and wait until the old one has ended."""
        old = self._processes[-1]
        self._start("-sf", str(old.pid))
        old.wait(_LONGEST_START)

    def stop(self) -> None:
        """End all processes."""
        for each in self._processes:
            with suppress(ProcessLookupError):
                each.send_signal(signal.SIGTERM)
            each.wait(_LONGEST_START)

    def _start(self, *arguments: str) -> None:
        program = shutil.which(_PROGRAM, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise Unsupported(f"there is no command `{_PROGRAM}`")
        with self._log.open("ab") as log:
            command = [program, "-db", "-f", str(SETTINGS), *arguments]
            started = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self._processes.append(started)

    def _is_ready(self) -> bool:
        try:
            reply = httpx2.get(f"{self.urls[1]}/health/ready", timeout=2.0, trust_env=False)
        except httpx2.TransportError:
            return False
        return bool(reply.status_code == 200)
