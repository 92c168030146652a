"""Envoy before three replicas, with the settings that the documentation recommends."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.chaos.proxy import HARD_STOP_S, HOSTS, Proxy

SETTINGS = Path(__file__).resolve().parents[2] / "docs" / "envoy.yaml"


class Envoy(Proxy):
    """Envoy before three replicas."""

    program = "envoy"

    def command(self, earlier: Sequence[int]) -> Sequence[str]:
        """Return the arguments of a process that replaces the last one."""
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(self.settings()))
        order = ["--base-id", str(self.grpc_port), "--restart-epoch", str(len(earlier))]
        times = ["--drain-time-s", "1", "--parent-shutdown-time-s", str(HARD_STOP_S)]
        return ["--config-path", str(path), "--concurrency", "1", *order, *times]

    def settings(self) -> dict[str, Any]:
        """Return the documented settings with the addresses and ports of this machine."""
        found: dict[str, Any] = yaml.safe_load(SETTINGS.read_text())
        resources = found["static_resources"]
        rest, grpc, health = self.ports
        for listener in resources["listeners"]:
            port = {"grpc": self.grpc_port, "rest": self.rest_port}[listener["name"]]
            listener["address"] = _address("127.0.0.1", port)
        for cluster in resources["clusters"]:
            port = {"grpc": grpc, "rest": rest}[cluster["name"]]
            for endpoint, host in zip(_endpoints(cluster), HOSTS, strict=True):
                endpoint["address"] = _address(host, port)
                endpoint["health_check_config"]["port_value"] = health
        return found


def _endpoints(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for locality in cluster["load_assignment"]["endpoints"]:
        yield from (each["endpoint"] for each in locality["lb_endpoints"])


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
