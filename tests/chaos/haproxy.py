"""HAProxy before three replicas, with the settings that the documentation recommends."""

from collections.abc import Sequence
from pathlib import Path

from tests.chaos.proxy import HARD_STOP_S, HOSTS, Proxy

SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "haproxy.cfg"


class HAProxy(Proxy):
    """HAProxy before three replicas."""

    program = "haproxy"

    def command(self, earlier: Sequence[int]) -> Sequence[str]:
        """Return the arguments of a process that replaces the last one."""
        replaced = ["-sf", str(earlier[-1])] if earlier else []
        return ["-db", "-f", str(SETTINGS), *replaced]

    def environment(self) -> dict[str, str]:
        """Return the variables of its processes, which name addresses and ports."""
        rest, grpc, health = self.ports
        named = dict(zip(("SERVER_A", "SERVER_B", "SERVER_C"), HOSTS, strict=True))
        numbers = {"REST": rest, "GRPC": grpc, "HEALTH": health}
        named |= {f"PORT_{name}": str(number) for name, number in numbers.items()}
        named |= {"LISTEN_GRPC": str(self.grpc_port), "LISTEN_REST": str(self.rest_port)}
        named |= {"LISTEN": "127.0.0.1", "HARD_STOP_AFTER": f"{HARD_STOP_S}s"}
        return super().environment() | named
