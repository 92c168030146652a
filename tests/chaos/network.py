"""A network of our own: a namespace for the server, joined by a virtual cable."""

import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from uuid import uuid4

_OURS, SERVER = "10.213.7.1", "10.213.7.2"


class Unsupported(Exception):  # noqa: N818
    """This machine does not allow a network of our own; the message says what failed."""


class Network:
    """A virtual cable between this machine and a namespace in which the server runs."""

    def __init__(self) -> None:
        self._name = f"chaos{uuid4().hex[:8]}"
        self._cable = f"c{uuid4().hex[:8]}"

    @property
    def prefix(self) -> list[str]:
        """Command that runs a program in the namespace."""
        return ["ip", "netns", "exec", self._name]

    def set_up(self) -> None:
        """Make the namespace and the cable, or raise `Unsupported`."""
        _run("ip", "netns", "add", self._name)
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "eth", "netns", self._name)
        _run("ip", "addr", "add", f"{_OURS}/24", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        _run(*self.prefix, "ip", "addr", "add", f"{SERVER}/24", "dev", "eth")
        _run(*self.prefix, "ip", "link", "set", "eth", "up")
        _run(*self.prefix, "ip", "link", "set", "lo", "up")

    def cut(self, seconds: float) -> None:
        """Cut the cable for some time: packets vanish, and no connection hears of it."""
        _run(*self.prefix, "ip", "link", "set", "eth", "down")
        time.sleep(seconds)
        _run(*self.prefix, "ip", "link", "set", "eth", "up")

    @contextmanager
    def losing(self, percent: float) -> Generator[None, None, None]:
        """Lose a part of all packets in either direction, or raise `Unsupported`."""
        lots = ["-m", "statistic", "--mode", "random", "--probability", str(percent / 100.0)]
        for chain in ("INPUT", "OUTPUT"):
            _run(*self.prefix, "iptables", "-A", chain, *lots, "-j", "DROP")
        try:
            yield
        finally:
            for chain in ("INPUT", "OUTPUT"):
                _run(*self.prefix, "iptables", "-F", chain)

    def remove(self) -> None:
        """Remove the cable and the namespace."""
        for kind, name in (("link", self._cable), ("netns", self._name)):
            subprocess.run(["ip", kind, "del", name], capture_output=True, check=False)


def _run(*command: str) -> None:
    arguments: Sequence[str] = command
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unsupported(f"there is no command `{command[0]}`") from error
    if done.returncode:
        raise Unsupported(f"`{' '.join(command)}`: {done.stderr.strip()}")
