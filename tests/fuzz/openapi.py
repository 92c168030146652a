"""Run schemathesis, which makes requests from the OpenAPI description and checks the answers."""

import os
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
# A schema cannot say all that a system has to be, such as as many positions as atomic numbers. And
# there are no keys that could be left out.
_WITHOUT = ("positive_data_acceptance", "ignored_auth")


def send_by_description(program: str, url: str, n_examples: int, seed: int) -> int:
    """Return the exit code of schemathesis, which prints what it found.

    Args:
        program: Path of the command `schemathesis`.
        url: Address of the service.
        n_examples: Number of requests for each path and method, besides systematic ones.
        seed: Seed of the requests.
    """
    config = ["--config-file", str(FOLDER / "schemathesis.toml")]
    size = ["--max-examples", str(n_examples), "--seed", str(seed)]
    phases = ["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"]
    checks = ["--checks", "all", "--exclude-checks", ",".join(_WITHOUT)]
    command = [program, *config, "run", f"{url}/openapi.json", *phases, *checks, *size]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": str(FOLDER / "hooks.py")}
    with tempfile.TemporaryDirectory() as folder:  # for what it writes down
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode
