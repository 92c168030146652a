"""The descriptions of all gRPC services of this server, for reflection."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from twinforce_proto.open_inference import protocol_pb2
from twinforce_proto.v1 import inference_pb2

SERVICE_NAME = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
_INFERENCE = "inference"
OPEN_INFERENCE_SERVICE_NAME = f"{_INFERENCE}.GRPCInferenceService"
# The first version of reflection is the same as the draft before it, in another package.
_REFLECTION = "grpc.reflection.v1"
_REFLECTION_SERVICE_NAME = f"{_REFLECTION}.ServerReflection"

_NAMES = (
    SERVICE_NAME,
    OPEN_INFERENCE_SERVICE_NAME,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
    _REFLECTION_SERVICE_NAME,
)


def add_reflection(server: grpc.aio.Server) -> None:
    """Let a server describe its services, by both names that clients call reflection by."""
    servicer = reflection.aio.ReflectionServicer(_NAMES, described())
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": method}
    handler = grpc.method_handlers_generic_handler(_REFLECTION_SERVICE_NAME, handlers)
    server.add_generic_rpc_handlers((handler,))


def described() -> Any:
    """Return a pool with the descriptions of all services, which only reflection uses.

    Clients of the Open Inference Protocol may load descriptions of the same name into this process.
    """
    pool: Any = DescriptorPool()
    for module in (inference_pb2, health_pb2, reflection_pb2):
        pool.Add(_copied(module.DESCRIPTOR))
    pool.Add(_renamed(protocol_pb2.DESCRIPTOR, "open_inference_grpc.proto", _INFERENCE))
    name = "grpc/reflection/v1/reflection.proto"
    pool.Add(_renamed(reflection_pb2.DESCRIPTOR, name, _REFLECTION))
    return pool


def _copied(file: Any) -> FileDescriptorProto:
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    return copy


def _renamed(file: Any, name: str, package: str) -> FileDescriptorProto:
    """Return the description of a file under another name, and its types in another package."""
    copy = _copied(file)
    before, after = f".{copy.package}.", f".{package}."
    copy.name, copy.package = name, package
    for message in _messages(copy.message_type):
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(before, after, 1)
    for service in copy.service:
        for method in service.method:
            method.input_type = method.input_type.replace(before, after, 1)
            method.output_type = method.output_type.replace(before, after, 1)
    return copy


def _messages(kinds: Any) -> Iterator[DescriptorProto]:
    """Yield messages and those defined inside them."""
    for kind in kinds:
        yield kind
        yield from _messages(kind.nested_type)
