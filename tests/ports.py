"""Ports for servers that are started later, and again."""

import random
import socket
from collections.abc import Sequence
from contextlib import ExitStack

# Ports that the system gives to nobody, so that they are free for a new start.
_PORTS = range(10000, 32000)
# Sockets that say which ports this process has taken, until it ends.
_taken: list[socket.socket] = []


def free_ports(hosts: Sequence[str] = ("127.0.0.1",), n_ports: int = 3) -> list[int]:
    """Return ports that differ, are free at all of these addresses, and that nobody else is given.

    To look is not enough: until a server listens, another process on this machine may find the same
    port free. Proxies, which listen with SO_REUSEPORT, would then share it without an error, and
    half of the connections would lead to the servers of another trial.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, 200):
        sign = socket.socket(socket.AF_UNIX)
        try:
            sign.bind(f"\0twinforce-port-{port}")  # the system removes it with this process
            with ExitStack() as stack:
                for host in hosts:
                    stack.enter_context(socket.socket()).bind((host, port))
        except OSError:
            sign.close()
            continue
        _taken.append(sign)
        found.append(port)
        if len(found) == n_ports:
            return found
    raise RuntimeError("no free ports were found")


def free_port() -> int:
    """Return a port as `free_ports` does."""
    return free_ports(n_ports=1)[0]
