"""Counts in the bytes of a message, read before its parts become objects.

The parser of protobuf makes an object of every part, however small: a message of two bytes takes
eighty. Counting reads tags and lengths alone, and stops at the first part that is too many.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.message import Message

from twinforce_proto.v1 import inference_pb2 as pb

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_ATOMIC_NUMBERS, _BYTES_PER_ATOM = pb.System.ATOMIC_NUMBERS_FIELD_NUMBER, 4
# Fields that hold the bytes of another message.
_ENCODED: Mapping[tuple[str, str], Any] = {
    (pb.PropagateRequest.DESCRIPTOR.full_name, "checkpoint"): pb.Checkpoint.DESCRIPTOR
}


@dataclass(slots=True)
class WireCounts:
    """The counts of a message, as far as it was read.

    Attributes:
        n_fields: Number of fields, also of messages inside.
        n_systems: Number of systems.
        n_atoms: Number of atoms of all systems.
    """

    n_fields: int = 0
    n_systems: int = 0
    n_atoms: int = 0


def wire_counts(data: bytes, kind: type[Message]) -> Iterator[WireCounts]:
    """Yield the counts of a message, which grow, after each of its fields.

    What is no message is read up to the place where that shows.

    Args:
        data: Bytes of the message.
        kind: Class of the message.
    """
    counts = WireCounts()
    try:
        yield from _walk(data, kind.DESCRIPTOR, counts)
    except IndexError:  # it ends within a number
        return


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


def _walk(data: bytes, descriptor: Any, counts: WireCounts) -> Iterator[WireCounts]:
    place, end, kind = 0, len(data), _kind_of(descriptor)
    outer: list[tuple[int, _Kind]] = []
    while True:
        while place >= end:
            if not outer:
                return
            end, kind = outer.pop()
        tag, place = _number(data, place)
        counts.n_fields += 1
        form = tag & 7
        if form == _LENGTH:
            size, place = _number(data, place)
            if place + size > end:
                return
            part = kind.parts.get(tag >> 3)
            if part is not None:
                outer.append((end, kind))
                end, kind = place + size, _kind_of(part)
                counts.n_systems += kind.is_system
            else:
                if kind.is_system and tag >> 3 == _ATOMIC_NUMBERS:
                    counts.n_atoms += size // _BYTES_PER_ATOM
                place += size
        elif form == _VARINT:
            _, place = _number(data, place)
        elif form in (_FIXED64, _FIXED32):
            place += 8 if form == _FIXED64 else 4
        yield counts


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
