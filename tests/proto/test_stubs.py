"""The committed stubs match the .proto file and the requirements in pyproject.toml."""

import re
import tomllib
from pathlib import Path

import pytest

from twinforce_proto.v1 import inference_pb2, inference_pb2_grpc

ROOT = Path(__file__).parents[2]
SOURCES = {
    "twinforce_proto/v1/inference.proto": ("python", "pyi", "grpc_python"),
    "twinforce_proto/open_inference/protocol.proto": ("python", "pyi"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_committed_stubs_match_the_proto_file(source, tmp_path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = [f"--{kind}_out={tmp_path}" for kind in SOURCES[source]]
    assert protoc.main(["protoc", f"-I{ROOT / 'proto'}", *out, source]) == 0
    generated = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*")}
    assert len(generated) == len(SOURCES[source])
    for path, text in generated.items():
        assert (ROOT / "proto" / path).read_text() == text, f"{path} is stale: run `make proto`"


def test_lower_bounds_equal_the_versions_that_generated_the_stubs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stub = Path(inference_pb2.__file__).read_text()
    (protobuf,) = re.findall(r"^# Protobuf Python Version: (\S+)$", stub, flags=re.MULTILINE)
    grpc = inference_pb2_grpc.GRPC_GENERATED_VERSION
    assert f"protobuf>={protobuf}" in project["dependencies"]
    assert f"grpcio>={grpc}" in project["dependencies"]
    assert f"grpcio-tools=={grpc}" in project["optional-dependencies"]["dev"]
