"""Counts in a body of JSON, taken before its values become objects, and its division into systems.

A comma, colon or brace in a text counts as well. No text of a valid body has one, so that counts
are never too low, and too high only for bodies that are invalid anyway.
"""

from dataclasses import dataclass

import orjson

from twinforce_proto import InvalidRequestError, SystemTooLargeError
from twinforce_service.calls.bounds import CallLimits
from twinforce_service.calls.conversion import BYTES_PER_SYSTEM

# Commas per atom: of its number, position, velocity, mass and index; per system and call: the rest.
_COMMAS_PER_ATOM, _COMMAS_PER_SYSTEM, _OTHER_COMMAS = 9, 24, 100
# Commas per atom of a system alone.
_COMMAS_PER_ATOM_ALONE = 4
# Objects of a call beside its systems, and keys of an object.
_OTHER_OBJECTS, _MAX_KEYS = 16, 10
# Bytes of a body beside its systems.
_MAX_REST = 256 * 1024
# Counting in parts lets other threads run in between.
_PART = 2**20


@dataclass(frozen=True, slots=True)
class DividedBody:
    """The parts of a body with a list of systems.

    Attributes:
        rest: The body with the index of each system in its place.
        systems: The places of the systems in the body.
    """

    rest: bytes
    systems: list[slice]


def work_of(body: bytes) -> int:
    """Return the size of a body, in bytes, to which each system adds what its object takes."""
    return len(body) + BYTES_PER_SYSTEM * body.count(b"{", 0, _PART)


def check_counts(body: bytes, limits: CallLimits) -> None:
    """Refuse a body that would become too many objects.

    Raises:
        InvalidRequestError: There are too many systems, values or keys.
    """
    n_objects = _count(body, b"{")
    if n_objects > limits.max_systems + _OTHER_OBJECTS:
        limits.check_systems(n_objects)
    max_commas = _OTHER_COMMAS + _COMMAS_PER_SYSTEM * limits.max_systems
    max_commas += _COMMAS_PER_ATOM * limits.max_atoms
    if (n_commas := _count(body, b",")) > max_commas:
        raise _expected(f"at most {limits.max_atoms} atoms (max_atoms_per_call)", n_commas)
    if (n_keys := _count(body, b":")) > _MAX_KEYS * (n_objects + 1):
        raise _expected(f"at most {_MAX_KEYS * (n_objects + 1)} keys", n_keys)


def divided(body: bytes) -> DividedBody:
    """Return the parts of a body with a list of systems, which are the objects inside another.

    Raises:
        InvalidRequestError: The systems contain objects, or the rest is too large.
    """
    rest: list[bytes] = []
    systems: list[slice] = []
    place = body.find(b"{") + 1
    rest.append(body[:place] if place <= _MAX_REST else b"{")
    n_bytes = 0
    while (begin := body.find(b"{", place)) >= 0 and (end := body.find(b"}", begin) + 1):
        if body.find(b"{", begin + 1, end) >= 0:
            raise InvalidRequestError.expected("systems", "systems without objects inside", "some")
        rest.append(_between(body, place, begin, n_bytes))
        n_bytes += len(rest[-1])
        rest.append(str(len(systems)).encode())
        systems.append(slice(begin, end))
        place = end
    rest.append(_between(body, place, len(body), n_bytes))
    return DividedBody(b"".join(rest), systems)


def check_alone(system: bytes, limits: CallLimits, index: int) -> None:
    """Refuse a system that would become too many objects.

    Raises:
        SystemTooLargeError: It has too many atoms.
        InvalidRequestError: It has too many keys.
    """
    limit = limits.max_atoms_per_system
    n_commas = system.count(b",") - _COMMAS_PER_SYSTEM
    if n_commas > _COMMAS_PER_ATOM_ALONE * limit:
        text = f"expected at most {limit} atoms, got about {n_commas // _COMMAS_PER_ATOM_ALONE}"
        raise SystemTooLargeError(text, system_index=index)
    if (n_keys := system.count(b":")) > _MAX_KEYS:
        raise InvalidRequestError.expected(f"systems[{index}]", f"at most {_MAX_KEYS} keys", n_keys)


def check_one_system(body: bytes, limits: CallLimits) -> None:
    """Refuse a body about one system that would become too many objects.

    Raises:
        SystemTooLargeError: The system has too many atoms.
        InvalidRequestError: There are too many keys.
    """
    limit = limits.max_atoms_per_system
    n_commas = _count(body, b",") - _OTHER_COMMAS
    if n_commas > _COMMAS_PER_ATOM * limit:
        text = f"expected at most {limit} atoms, got about {n_commas // _COMMAS_PER_ATOM}"
        raise SystemTooLargeError(text)
    n_objects = _count(body, b"{")
    if n_objects > _OTHER_OBJECTS or _count(body, b":") > _MAX_KEYS * _OTHER_OBJECTS:
        expected = f"at most {_OTHER_OBJECTS} objects of {_MAX_KEYS} keys each"
        raise InvalidRequestError.expected("body", expected, "more")


def values_of(rest: bytes, n_systems: int) -> dict[str, object]:
    """Return the values of a divided body, without its systems.

    Raises:
        InvalidRequestError: It is no object, or other objects than systems were taken out.
    """
    try:
        values = orjson.loads(rest)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError.expected("body", "JSON", f"other bytes: {error.msg}") from error
    if not isinstance(values, dict):
        raise InvalidRequestError.expected("body", "an object", "something else")
    if values.pop("systems", None) != list(range(n_systems)):
        raise InvalidRequestError.expected("systems", "a list of objects, and no others", "more")
    return values


def _between(body: bytes, begin: int, end: int, n_bytes: int) -> bytes:
    if n_bytes + end - begin > _MAX_REST:
        expected = f"at most {_MAX_REST} bytes beside the systems"
        raise InvalidRequestError.expected("body", expected, "more")
    return body[begin:end]


def _count(body: bytes, mark: bytes) -> int:
    return sum(body.count(mark, begin, begin + _PART) for begin in range(0, len(body), _PART))


def _expected(expected: str, n_values: int) -> InvalidRequestError:
    return InvalidRequestError.expected("body", expected, f"{n_values} values")
