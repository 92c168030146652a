"""Tests that a client which knows only reflection can call every service."""

import subprocess
import sys

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb

from tests.conftest import free_ports
from tests.potentials import Soft, loaded
from twinforce_proto.open_inference import protocol_pb2
from twinforce_service.embedded import run_in_thread

PATIENCE = 60.0
VERSIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
SERVICES = {
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
    "twinforce.v1.Inference",
    *(f"{version}.ServerReflection" for version in VERSIONS),
}


@pytest.fixture(scope="module")
def channel():
    with (
        run_in_thread(free_ports(), lambda: {"soft": loaded(Soft())}) as server,
        grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel,
    ):
        yield channel


@pytest.fixture(params=VERSIONS)
def ask(channel, request):
    """Return a function that asks about the services."""
    method = channel.stream_stream(
        f"/{request.param}.ServerReflection/ServerReflectionInfo",
        pb.ServerReflectionRequest.SerializeToString,
        pb.ServerReflectionResponse.FromString,
    )

    def ask(**question):
        (answer,) = method(iter([pb.ServerReflectionRequest(**question)]), timeout=PATIENCE)
        return answer

    return ask


def service_of(ask, name):
    """Return the description of a service in a pool of its own."""
    pool = DescriptorPool()
    answer = ask(file_containing_symbol=name)
    assert not answer.HasField("error_response")
    for data in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(FileDescriptorProto.FromString(data))
    return pool.FindServiceByName(name)


def test_each_service_is_listed(ask):
    listed = ask(list_services="").list_services_response.service
    assert {each.name for each in listed} == SERVICES


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_described(ask, name):
    service = service_of(ask, name)
    assert service.full_name == name
    package = name.rpartition(".")[0]
    for method in service.methods:
        assert method.input_type.full_name.startswith(f"{package}.")
        assert method.output_type.full_name.startswith(f"{package}.")


def test_the_open_inference_protocol_is_described_as_it_is(ask):
    service = service_of(ask, "inference.GRPCInferenceService")
    ours = protocol_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [each.name for each in service.methods] == [each.name for each in ours.methods]
    theirs, mine = service.methods_by_name["ModelInfer"].input_type, protocol_pb2.ModelInferRequest
    found = [(each.number, each.name, each.type) for each in theirs.fields]
    assert found == [(each.number, each.name, each.type) for each in mine.DESCRIPTOR.fields]


def test_a_method_can_be_called_by_its_description(ask, channel):
    method = service_of(ask, "inference.GRPCInferenceService").methods_by_name["ModelMetadata"]
    request, reply = map(GetMessageClass, (method.input_type, method.output_type))
    call = channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    found = reply.FromString(call(request(name="soft").SerializeToString(), timeout=PATIENCE))
    assert found.outputs[0].name == "energy"


def test_what_is_not_served_is_not_described(ask):
    answer = ask(file_containing_symbol="inference.Nothing")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


CLIENT = """
from google.protobuf import descriptor_pb2, descriptor_pool

file = descriptor_pb2.FileDescriptorProto(name="{name}", package="inference", syntax="proto3")
file.message_type.add(name="ModelInferRequest").field.add(name="else", number=9, type=9, label=1)
file.service.add(name="GRPCInferenceService")
pool = descriptor_pool.Default()
"""


@pytest.mark.parametrize("name", ["grpc_service.proto", "open_inference_grpc.proto"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_client_of_the_same_protocol_can_live_in_the_process(name, is_first):
    ours = (
        "from twinforce_service.transports import grpc_descriptors\n"
        "pool = grpc_descriptors.described()\n"
        "name = 'inference.ModelInferRequest'\n"
        "assert 'inputs' in pool.FindMessageTypeByName(name).fields_by_name\n"
    )
    client = CLIENT.format(name=name) + "pool.Add(file)\n"
    program = client + ours if is_first else ours + client
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
