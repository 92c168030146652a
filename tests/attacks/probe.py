"""The probe, a process of its own: how long `/health/live` takes to answer, every 5 ms."""

import json
import select
import socket
import subprocess
import sys
import time

_INTERVAL = 0.005
_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Probe:
    """Measures the latency of liveness until it is stopped.

    Args:
        port: Port of the REST API.
    """

    def __init__(self, port):
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._process.stdout.readline()  # it has begun

    def stop(self):
        """Return the p50, p99 and maximum of the latencies, in ms, and the number of failures."""
        output, _ = self._process.communicate("stop\n", timeout=120)
        return json.loads(output)


def _ask(connection):
    connection.sendall(_REQUEST)
    reply = b""
    while b"live" not in reply.partition(b"\r\n\r\n")[2]:
        part = connection.recv(4096)
        if not part or b" 200 " not in (reply := reply + part):
            raise ConnectionError(reply)


def _is_stopped():
    return bool(select.select([sys.stdin], [], [], 0)[0])


def _probe(port):
    latencies, n_failed, connection = [], 0, None
    while not _is_stopped():
        begin = time.perf_counter()
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), 60)
            _ask(connection)
        except OSError:
            n_failed += 1
            connection = None
        latency = 1000 * (time.perf_counter() - begin)
        latencies.append(latency)
        if len(latencies) == 1:
            sys.stdout.write("begun\n")
            sys.stdout.flush()
        # Latencies of requests that a slow one kept from being sent would be missing otherwise.
        time.sleep(_INTERVAL)
        missed = int(latency / (1000 * _INTERVAL))
        latencies.extend(latency - 1000 * _INTERVAL * i for i in range(1, missed))
    latencies.sort()
    found = {
        "p50_ms": latencies[len(latencies) // 2],
        "p99_ms": latencies[int(0.99 * (len(latencies) - 1))],
        "max_ms": latencies[-1],
        "n_failed": n_failed,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _probe(int(sys.argv[1]))
