"""Test of perf_analyzer, which works as it is."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.clients.serving import port_of
from tests.ecosystem.open_inference import INPUTS, PATIENCE, serve_soft

PROGRAM = "tritonclient"
pytestmark = pytest.mark.ecosystem


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_perf_analyzer_measures(protocol, tmp_path):
    """perf_analyzer, which comes with it, measures over HTTP and gRPC."""
    program = Path(sys.executable).with_name("perf_analyzer")
    runtime = Path(sysconfig.get_path("purelib"), "nvidia", "cuda_runtime", "lib")
    libraries = f"{os.environ.get('LD_LIBRARY_PATH', '')}:{runtime}"
    data = {name: {"content": a.ravel().tolist(), "shape": a.shape} for name, a in INPUTS.items()}
    file = tmp_path / "data.json"
    file.write_text(json.dumps({"data": [data]}))
    with serve_soft() as server:
        url = server.rest_url if protocol == "http" else server.grpc_url
        options = ["-m", "soft", "-i", protocol, "-u", f"127.0.0.1:{port_of(url)}"]
        options += ["--input-data", str(file), "--concurrency-range", "2", "--request-count", "50"]
        ran = subprocess.run(
            [program, *options],
            env=os.environ | {"LD_LIBRARY_PATH": libraries},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "throughput: " in ran.stdout
