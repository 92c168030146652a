"""The service under load, with keys and TLS, and what its processes hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.attacks.victim import descendants
from tests.clients.certificates import Authority
from tests.service.callers.making import add_key

# As in the messages of tests/fuzz.
MODEL = "soft"
_COMMAND = f"""
-m twinforce_service.main --model {MODEL}=toy:lennard-jones --no-water --compile off --n-threads 1
--rest-port 0 --grpc-port 0
"""


class Soaked:
    """A server process and its engine process, with keys and TLS.

    Attributes:
        urls: Addresses of gRPC and REST.
        key: A key that opens all calls.
        ca: File with the certificate of the authority that the service is known by.
    """

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder)
        certificate, private_key = authority.issue("server")
        self.ca, self.key = authority.ca, add_key(folder / "keys.json", "soak")
        tls = ["--tls-certificate", str(certificate), "--tls-key", str(private_key)]
        keys = ["--keys", str(folder / "keys.json")]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *_COMMAND.split(), *tls, *keys],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline() for _ in range(3)]
        rest, grpc = (re.search(r"\S+://\S+", line) for line in lines[1:])
        if rest is None or grpc is None:
            self.stop()
            raise RuntimeError(f"the service did not start: {(folder / 'log').read_text()}")
        self.urls = grpc[0], rest[0]
        (self.engine_pid,) = descendants(self.server_pid)

    @property
    def server_pid(self) -> int:
        """Id of the process that serves the API."""
        return self._process.pid

    def stop(self) -> int:
        """Stop the service and return its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(60.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def n_descriptors(pid: int) -> int:
    """Return the number of open files of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu_s(pid: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
