"""Counts in the bytes of a message, read before its parts become objects.

The parser of protobuf makes an object of every part, however small: a message of two bytes takes
eighty. Counting reads tags and lengths alone, and stops at the first part that is too many.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.message import Message

from twinforce_proto.v1 import inference_pb2 as pb

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_ATOMIC_NUMBERS, _BYTES_PER_ATOM = pb.System.ATOMIC_NUMBERS_FIELD_NUMBER, 4
# Fields that hold the bytes of another message.
_ENCODED: Mapping[tuple[str, str], Any] = {
    (pb.PropagateRequest.DESCRIPTOR.full_name, "checkpoint"): pb.Checkpoint.DESCRIPTOR
}


class WireCounts(NamedTuple):
    """The counts of a message.

    Attributes:
        n_fields: Number of fields, also of messages inside.
        n_systems: Number of systems.
        n_atoms: Number of atoms of all systems.
    """

    n_fields: int
    n_systems: int
    n_atoms: int


def wire_counts(data: bytes, kind: type[Message], most: WireCounts) -> WireCounts:
    """Return the counts of a message, read up to the place where one of them exceeds its limit.

    What is no message is read up to the place where that shows.

    Args:
        data: Bytes of the message.
        kind: Class of the message.
        most: Limits of the counts.
    """
    place, end, part = 0, len(data), _kind_of(kind.DESCRIPTOR)
    outer: list[tuple[int, _Kind]] = []
    n_fields = n_systems = n_atoms = 0
    with suppress(IndexError):  # it ends within a number
        while n_fields <= most.n_fields and n_systems <= most.n_systems and n_atoms <= most.n_atoms:
            if place >= end:
                if not outer:
                    break
                end, part = outer.pop()
                continue
            tag, place = _number(data, place)
            n_fields += 1
            if tag & 7 != _LENGTH:
                place = _behind(data, place, tag & 7)
                continue
            size, place = _number(data, place)
            if place + size > end:
                break
            if (inside := part.parts.get(tag >> 3)) is not None:
                outer.append((end, part))
                end, part = place + size, _kind_of(inside)
                n_systems += part.is_system
                continue
            if part.is_system and tag >> 3 == _ATOMIC_NUMBERS:
                n_atoms += size // _BYTES_PER_ATOM
            place += size
    return WireCounts(n_fields, n_systems, n_atoms)


@dataclass(frozen=True, slots=True)
class _Kind:
    """The fields of a message that are messages themselves, by number."""

    is_system: bool
    parts: Mapping[int, Any]


@cache
def _kind_of(descriptor: Any) -> _Kind:
    parts = {field.number: _inside(descriptor, field) for field in descriptor.fields}
    found = {number: part for number, part in parts.items() if part is not None}
    return _Kind(descriptor is pb.System.DESCRIPTOR, found)


def _inside(descriptor: Any, field: Any) -> Any:
    """Return the description of the message in a field, or None."""
    return field.message_type or _ENCODED.get((descriptor.full_name, field.name))


def _behind(data: bytes, place: int, form: int) -> int:
    """Return the place behind a number of this form."""
    if form == _VARINT:
        return _number(data, place)[1]
    return place + {_FIXED64: 8, _FIXED32: 4}.get(form, 0)


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Return the variable-length number at a place, and the place behind it."""
    byte = data[place]
    place += 1
    if byte < 0x80:
        return byte, place
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
