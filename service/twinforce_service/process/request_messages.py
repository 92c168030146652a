"""The messages that carry requests to an engine process: their arrays are a frame of each kind."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from twinforce_proto import System
from twinforce_proto.checks import periodicity
from twinforce_service.callers.caller import Caller
from twinforce_service.process.channel import Frame
from twinforce_service.process.messages import Kind, Message, floats, joined
from twinforce_service.scheduling.reply import reply
from twinforce_service.scheduling.request import JacobianRequest, Request, Walker

_INT32 = np.dtype(np.int32)
# Times that the queue sets: of admission, and on the device.
_NOT_YET = 0.0


def requests_to_frames(requests: Iterable[tuple[int, Request[Any]]]) -> list[Frame]:
    """Encode requests, each with the number that its answer will carry."""
    entries: list[object] = []
    systems: list[System] = []
    for number, request in requests:
        system, walker = request.system, request.walker
        systems.append(system)
        rows = request.rows if isinstance(request, JacobianRequest) else None
        entries.append(
            (
                number,
                request.model,
                tuple(request.outputs),
                request.deadline,
                request.system_index,
                request.request_id,
                None if walker is None else walker.id,
                request.urgency,
                caller_to_list(request.caller),
                request.connection,
                request.n_pairs,
                request.is_suspect,
                request.trace,
                request.n_atoms,
                system.pbc.tolist(),
                system.charge,
                system.spin_multiplicity,
                None if rows is None else (rows.start, rows.stop),
            )
        )
    return [
        orjson.dumps((Kind.REQUESTS, *entries)),
        joined([system.atomic_numbers for system in systems]),
        joined([system.positions for system in systems]),
        joined([system.cell for system in systems]),
    ]


def requests_from_message(message: Message) -> list[tuple[int, Request[Any]]]:
    """Decode requests, each with its number."""
    raw_numbers, raw_positions, raw_cells = message.frames
    numbers = np.frombuffer(raw_numbers, _INT32)
    positions, cells = floats(raw_positions, (-1, 3)), floats(raw_cells, (-1, 3, 3))
    requests = []
    start = 0
    for entry, cell in zip(message.head, cells, strict=True):
        number, *common, n_atoms, pbc, charge, spin, rows = entry
        stop = start + n_atoms
        system = System.of_checked(
            numbers[start:stop], positions[start:stop], cell, periodicity(*pbc), charge, spin
        )
        requests.append((number, _request(number, system, rows, *common)))
        start = stop
    return requests


def caller_to_list(caller: Caller) -> list[object]:
    """Encode what the queue needs to know of a caller, as the arguments of `Caller`."""
    return [caller.name, caller.share, caller.may_be_urgent]


def _request(
    number: int,
    system: System,
    rows: Sequence[int] | None,
    model: str,
    outputs: Sequence[str],
    deadline: float | None,
    system_index: int | None,
    request_id: str,
    walker: str | None,
    urgency: int,
    caller: Sequence[Any],
    connection: str,
    n_pairs: int,
    is_suspect: bool,
    trace: str,
) -> Request[Any]:
    values: tuple[Any, ...] = (
        model,
        system,
        _outputs(*outputs),
        deadline,
        system_index,
        request_id,
        None if walker is None else _walker(walker),
        urgency,
        caller_of(*caller),
        connection,
        n_pairs,
        is_suspect,
        number,
        _NOT_YET,
        _NOT_YET,
        trace,
        reply(),
    )
    return Request(*values) if rows is None else JacobianRequest(*values, rows=range(*rows))


# Values that the requests of a walker have in common are cached.
_walker = lru_cache(maxsize=10_000)(Walker)
caller_of = lru_cache(maxsize=10_000)(Caller)


@lru_cache(maxsize=1000)
def _outputs(*names: str) -> frozenset[str]:
    return frozenset(names)
