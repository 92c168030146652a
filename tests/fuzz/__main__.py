"""Send malformed messages over both transports, and print the outcomes and what failed."""

import argparse
import sys

from tests.conftest import free_ports
from tests.fuzz.sending import Findings, send_over_grpc, send_over_rest
from tests.potentials import Soft, loaded
from twinforce_service.embedded import run_in_thread


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    findings = Findings()
    settings = free_ports(max_propagation_steps=100, max_jacobian_atoms=20)
    with run_in_thread(settings, lambda: {"soft": loaded(Soft())}) as server:
        half = arguments.messages // 2
        send_over_rest(server.rest_url, half, arguments.seed, findings)
        send_over_grpc(server.grpc_url, half, arguments.seed, findings)
    sys.stdout.write(f"{dict(findings.outcomes)}\n")
    for place, message, outcome in findings.failures[:20]:
        sys.stdout.write(f"{outcome} of {place}: {message!r}\n")
    return bool(findings.failures)


if __name__ == "__main__":
    sys.exit(main())
