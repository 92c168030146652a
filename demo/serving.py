"""A service in a separate process, as users run it, for the demo."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 10.0


@contextmanager
def running_service(*flags: str) -> Iterator[tuple[str, str]]:
    """Run a service on free ports and yield its REST and gRPC addresses once it is ready.

    Args:
        flags: Additional flags for `twinforce-server`.
    """
    command = [sys.executable, "-m", "twinforce_service.main", "--rest-port=0", "--grpc-port=0"]
    server = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True)
    try:
        yield wait_until_ready(server)
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_until_ready(server: "subprocess.Popen[str]") -> tuple[str, str]:
    """Return the REST and gRPC addresses that the service prints when it is ready."""
    assert server.stdout is not None
    too_late = threading.Timer(START_TIMEOUT_S, server.kill)
    too_late.start()
    rest_url = ""
    try:
        for line in server.stdout:
            sys.stdout.write(line)
            if "http://" in line:
                rest_url = line.split()[-1]
            if "grpc://" in line:
                return rest_url, line.split()[-1]
    finally:
        too_late.cancel()
    raise SystemExit("the service did not start")
