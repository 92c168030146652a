"""Send malformed messages over both transports, and print the outcomes and what failed."""

import argparse
import sys

from tests.conftest import free_ports
from tests.fuzz.open_inference import send_as_tensors
from tests.fuzz.openapi import send_by_description
from tests.fuzz.sending import Findings, send_over_grpc, send_over_rest
from tests.potentials import Soft, loaded
from twinforce_models import registry
from twinforce_service.embedded import run_in_thread


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", help="the command; without it, it is not used")
    parser.add_argument("--examples", type=int, default=200, help="its requests for each path")
    arguments = parser.parse_args()
    findings = Findings()
    settings = free_ports(max_propagation_steps=500, max_jacobian_atoms=20)
    with run_in_thread(settings, _models) as server:
        part = arguments.messages // 3
        send_over_rest(server.rest_url, part, arguments.seed, findings)
        send_over_grpc(server.grpc_url, part, arguments.seed, findings)
        send_as_tensors(server.rest_url, server.grpc_url, part, arguments.seed, findings)
        code = 0
        if arguments.schemathesis:
            number, seed = arguments.examples, arguments.seed
            code = send_by_description(arguments.schemathesis, server.rest_url, number, seed)
    sys.stdout.write(f"{dict(findings.outcomes)}\n")
    for place, message, outcome in findings.failures[:20]:
        sys.stdout.write(f"{outcome} of {place}: {message!r}\n")
    return int(bool(findings.failures or code))


def _models() -> dict[str, registry.LoadedModel]:
    # Examples of the description are of water.
    return {"soft": loaded(Soft()), "toy": registry.load("toy:lennard-jones")}


if __name__ == "__main__":
    sys.exit(main())
