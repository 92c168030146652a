"""Conversion of the state of a service to and from protobuf messages."""

from dataclasses import asdict, fields
from typing import Any, TypeVar

from google.protobuf.message import Message

from twinforce_proto.status import CallerUsage, DeviceStatus, ModelStatus, ServiceStatus
from twinforce_proto.v1 import inference_pb2 as pb

_T = TypeVar("_T")


def status_to_proto(status: ServiceStatus) -> pb.ServiceStatus:
    """Encode the state of a service."""
    return pb.ServiceStatus(**asdict(status))


def status_from_proto(message: pb.ServiceStatus) -> ServiceStatus:
    """Decode the state of a service."""
    return _from_proto(
        ServiceStatus,
        message,
        models=tuple(
            _from_proto(ModelStatus, each, environments=tuple(each.environments))
            for each in message.models
        ),
        devices=tuple(_from_proto(DeviceStatus, each) for each in message.devices),
        callers=tuple(_from_proto(CallerUsage, each) for each in message.callers),
    )


def _from_proto(kind: type[_T], message: Message, **given: Any) -> _T:
    """Return an object whose attributes are those given, or else the fields of a message.

    What an optional field leaves out is None.
    """
    names = [each.name for each in fields(kind) if each.name not in given]  # type: ignore[arg-type]
    return kind(**{name: _value(message, name) for name in names}, **given)


def _value(message: Message, name: str) -> Any:
    is_optional = message.DESCRIPTOR.fields_by_name[name].has_presence
    return None if is_optional and not message.HasField(name) else getattr(message, name)
