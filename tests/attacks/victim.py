"""The service under attack: its processes, their time on the processor and their memory."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

ATTACKER = "127.0.0.2"
_TICKS = os.sysconf("SC_CLK_TCK")
_COMMAND = (
    "-m twinforce_service.main --model lj=toy:lennard-jones --no-water --rest-port 0 --grpc-port 0 "
    "--compile off --n-threads 1"
)


class Victim:
    """A service on free ports of this machine.

    Args:
        flags: Further flags of the service.
    """

    def __init__(self, flags=()):
        command = [sys.executable, *_COMMAND.split(), *flags]
        self._service = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        lines = [self._service.stdout.readline() for _ in range(3)]
        self.rest_port, self.grpc_port = (
            int(re.search(r":(\d+)\s", line)[1]) for line in lines[1:]
        )
        self.n_log_bytes = 0
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._pids = [self._service.pid, *descendants(self._service.pid)]

    def connect(self, port=None, receive_buffer=0):
        """Return a connection of the attacker, to REST by default."""
        connection = socket.socket()
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10.0)
        connection.bind((ATTACKER, 0))
        connection.connect(("127.0.0.1", port or self.rest_port))
        return connection

    def cpu_s(self):
        """Return the seconds that all processes have computed."""
        return sum(_cpu_s(pid) for pid in self._pids)

    def forget_peaks(self):
        """Let the peaks of memory count from here."""
        for pid in self._pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def memory_mb(self, name):
        """Return the memory of all processes: VmRSS, or VmHWM for their peaks."""
        return sum(_status_kb(pid, name) for pid in self._pids) / 1024

    def unsent_mb(self):
        """Return the bytes in the sockets of REST that their peers have not taken."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        port = f":{self.rest_port:04X}"
        queues = [line[4].partition(":")[0] for line in lines if line[1].endswith(port)]
        return sum(int(queue, 16) for queue in queues) / 1e6

    def metric(self, name):
        """Return the sum of a metric over its labels."""
        url = f"http://127.0.0.1:{self.rest_port}/metrics"
        with urllib.request.urlopen(url, timeout=60) as reply:
            text = reply.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, re.M))

    @property
    def is_alive(self):
        """True if all processes that were there at the start are still there."""
        return all(Path(f"/proc/{pid}").exists() for pid in self._pids)

    def stop(self):
        self._service.terminate()
        try:
            self._service.wait(60)
        except subprocess.TimeoutExpired:
            self._service.kill()
            self._service.wait()
        self._reader.join()
        self._service.stdout.close()

    def _read_log(self):
        with self._service.stderr as log:
            for line in log:
                self.n_log_bytes += len(line)


def descendants(pid):
    """Return the ids of the processes that a process and its children have started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(child)]
    return found


def _cpu_s(pid):
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def _status_kb(pid, name):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0
