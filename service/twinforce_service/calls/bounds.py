"""The bounds of a call, checked as soon as they can be: before objects are made of a message."""

import sys
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from twinforce_proto import InvalidRequestError, PredictRequest
from twinforce_proto.codec.wire import WireCounts, wire_counts
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM, MAX_BYTES_INLINE

_Message = TypeVar("_Message", bound=Message)

_ANY = sys.maxsize
# Fields of a whole system, its arrays included, and those of everything else in a call.
_FIELDS_PER_SYSTEM, _OTHER_FIELDS = 20, 200
# Fields of a small system, whose object takes as long as any.
_FEWEST_FIELDS = 6
# Counts of a message of which no more need be known than that it is not converted at once.
_FEW = WireCounts(_FEWEST_FIELDS * MAX_BYTES_INLINE // BYTES_PER_SYSTEM, _ANY, _ANY)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits of one call.

    Attributes:
        max_bytes: Bytes of a request, and of a message of its reply.
        max_systems: Systems in a call.
        max_atoms: Atoms of all systems in a call.
        max_atoms_per_system: Atoms of one system.
    """

    max_bytes: int
    max_systems: int
    max_atoms: int
    max_atoms_per_system: int

    def check_systems(self, n_systems: int) -> None:
        """Refuse a call of too many systems.

        Raises:
            InvalidRequestError: There are too many.
        """
        if n_systems > self.max_systems:
            expected = f"at most {self.max_systems} in one call (max_systems_per_call)"
            raise InvalidRequestError.expected("systems", expected, n_systems)

    def check_atoms(self, n_atoms: int) -> None:
        """Refuse a call of too many atoms.

        Raises:
            InvalidRequestError: There are too many.
        """
        if n_atoms > self.max_atoms:
            expected = f"at most {self.max_atoms} atoms in one call (max_atoms_per_call)"
            raise InvalidRequestError.expected("systems", expected, n_atoms)

    def check_request(self, request: PredictRequest) -> None:
        """Refuse a request of too many systems or atoms.

        Raises:
            InvalidRequestError: There are too many.
        """
        self.check_systems(len(request.systems))
        self.check_atoms(sum(map(len, request.systems)))

    def check_wire(self, data: bytes, kind: type[Message]) -> None:
        """Refuse the bytes of a message that would become too many objects.

        Raises:
            InvalidRequestError: There are too many systems, atoms or fields.
        """
        max_fields = _OTHER_FIELDS + _FIELDS_PER_SYSTEM * self.max_systems
        counts = wire_counts(data, kind, WireCounts(max_fields, self.max_systems, self.max_atoms))
        self.check_systems(counts.n_systems)
        self.check_atoms(counts.n_atoms)
        if counts.n_fields > max_fields:
            raise InvalidRequestError.expected("body", f"at most {max_fields} fields", "more")


def parsed(kind: type[_Message], data: bytes) -> _Message:
    """Return the message in these bytes.

    Raises:
        InvalidRequestError: They are no such message.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        expected = f"a {kind.DESCRIPTOR.full_name} message"
        raise InvalidRequestError.expected("body", expected, f"{len(data)} other bytes") from error


def work_of_wire(data: bytes, kind: type[Message]) -> int:
    """Return the size of a message, in bytes, to which each system adds what its object takes.

    A message that is larger than what is converted at once is not read to its end.
    """
    if len(data) > MAX_BYTES_INLINE:
        return len(data)
    counts = wire_counts(data, kind, _FEW)
    return len(data) + BYTES_PER_SYSTEM * counts.n_fields // _FEWEST_FIELDS


def accept_one(request: object) -> None:
    """Accept a request about one system, whose size admission checks."""
