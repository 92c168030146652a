"""Tests that programs of an earlier release understand this one, and of the form of the API.

`released/inference.binpb` describes the API of the last release. After a release, replace it:
`protoc -I proto --descriptor_set_out=tests/proto/released/inference.binpb
proto/twinforce_proto/v1/inference.proto`.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from twinforce_proto.v1 import inference_pb2

ROOT = Path(__file__).parents[2]
RELEASED = Path(__file__).with_name("released") / "inference.binpb"


def released():
    (file,) = FileDescriptorSet.FromString(RELEASED.read_bytes()).file
    return file


def current():
    file = FileDescriptorProto()
    inference_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def messages(kinds, within=""):
    for kind in kinds:
        yield f"{within}{kind.name}", kind
        yield from messages(kind.nested_type, f"{within}{kind.name}.")


def facts(file):
    """Return all that a program of another release relies on, as texts."""
    found = set()
    for name, message in messages(file.message_type):
        for field in message.field:
            where = f"{name}.{field.name} = {field.number}"
            found.add(f"{where}: {field.type} {field.label} {field.type_name}")
            choice = (
                message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
            )
            found.add(f"{where}: in {choice or 'none'}")
    for enum in file.enum_type:
        found |= {f"{enum.name} has {value.number}" for value in enum.value}
    for service in file.service:
        for method in service.method:
            streams = method.client_streaming, method.server_streaming
            found.add(
                f"{service.name}.{method.name}: {method.input_type} {method.output_type} {streams}"
            )
    return found


def test_nothing_that_was_released_has_changed():
    assert file_names(released()) == file_names(current())
    assert facts(released()) - facts(current()) == set()


def file_names(file):
    return file.name, file.package, file.syntax


def changed(file, change):
    copy = FileDescriptorProto()
    copy.CopyFrom(file)
    change(copy)
    return copy


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.message_type[0].field.pop(),
        lambda file: setattr(file.message_type[0].field[0], "number", 17),
        lambda file: setattr(file.message_type[0].field[0], "name", "other"),
        lambda file: setattr(file.message_type[0].field[0], "label", 3),
        lambda file: file.enum_type[0].value.pop(),
        lambda file: setattr(file.service[0].method[0], "server_streaming", True),
        lambda file: file.service[0].method.pop(),
    ],
)
def test_a_change_would_be_noticed(change):
    assert facts(released()) - facts(changed(released(), change))


def test_additions_are_no_changes():
    def add(file):
        file.message_type[0].field.add(name="more", number=99, type=9, label=1)
        file.enum_type[0].value.add(name="MORE", number=99)

    assert not facts(released()) - facts(changed(released(), add))


def buf(*arguments):
    program = shutil.which("buf")
    if program is None:
        pytest.skip("buf is not installed (pip install buf-bin)")
    ran = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def test_buf_finds_no_flaw():
    assert buf("lint") == (0, "")


def test_buf_finds_nothing_that_breaks_earlier_programs():
    assert buf("breaking", "--against", str(RELEASED)) == (0, "")
