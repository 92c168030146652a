"""The sizes of messages: of requests, and of replies before anything is computed.

The sizes of the arrays in a reply follow from the number of atoms and the outputs alone. The rest
of a message is small and does not count.
"""

from collections.abc import Set

from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_proto import (
    FORCES,
    STRESSES,
    InvalidRequestError,
    NonconservativityRequest,
    PredictRequest,
    SystemTooLargeError,
)

_FLOAT64, _FLOAT32 = 8, 4
_N_BYTES = {"float64": _FLOAT64, "float32": _FLOAT32}
# Floats per atom in a snapshot: positions, velocities; and in its checkpoint positions, momenta,
# both forces, mass.
_SNAPSHOT_FLOATS = 6 + 6 + 6 + 1
# Bytes per atom of atomic numbers and of the indices of fixed atoms in a checkpoint.
_SNAPSHOT_INTEGERS = 8
_SETTING = "or raise max_body_bytes of the service"


def request_too_large(max_bytes: int, n_bytes: int | None = None) -> SystemTooLargeError:
    """Return the error for a request above the limit; its size may not be known."""
    expected = f"at most {max_bytes} bytes (max_body_bytes of the service)"
    got = f"{n_bytes or 'more'}; send fewer systems"
    return SystemTooLargeError.expected("body", expected, got)


def check_size(n_bytes: int, max_bytes: int) -> None:
    """Refuse a request above the limit.

    Raises:
        SystemTooLargeError: It is too large.
    """
    if n_bytes > max_bytes:
        raise request_too_large(max_bytes, n_bytes)


def check_predictions(request: PredictRequest, max_bytes: int) -> None:
    """Refuse a list of systems whose predictions do not fit into a message.

    Raises:
        SystemTooLargeError: The prediction of one of the systems alone does not fit.
        InvalidRequestError: All of them together do not fit.
    """
    width, outputs = _N_BYTES[request.reply_dtype], request.outputs
    sizes = [_prediction_bytes(len(system), outputs, width) for system in request.systems]
    if sum(sizes) <= max_bytes:
        return
    names = ", ".join(sorted(outputs))
    advice = f"ask for fewer outputs{_or_float32(request.reply_dtype)}"
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] > max_bytes:
        n_atoms = len(request.systems[largest])
        text = f"the reply with {names} of {n_atoms} atoms takes {sizes[largest]} bytes"
        text = f"{text}, more than the limit of {max_bytes}; {advice}, {_SETTING}"
        raise SystemTooLargeError(text, system_index=largest if len(sizes) > 1 else None)
    text = f"the reply with {names} of {len(sizes)} systems takes {sum(sizes)} bytes"
    text = f"{text}, more than the limit of {max_bytes}; send fewer systems, {advice}, {_SETTING}"
    raise InvalidRequestError(f"systems: {text}", field="systems")


def check_pair_norms(request: NonconservativityRequest, max_bytes: int) -> None:
    """Refuse a system whose norms of pairs of atoms do not fit into a message.

    Raises:
        SystemTooLargeError: They do not fit.
    """
    n_atoms = len(request.system)
    n_bytes = 2 * _FLOAT32 * n_atoms**2 if request.pairs else 0
    if n_bytes > max_bytes:
        text = f"the reply with the norms of all pairs of {n_atoms} atoms takes {n_bytes} bytes"
        text = f"{text}, more than the limit of {max_bytes}; ask for λ without pairs, {_SETTING}"
        raise SystemTooLargeError(text)


def check_snapshots(request: PropagateRequest, max_bytes: int) -> None:
    """Refuse a run whose snapshots, with their checkpoints, do not fit into messages.

    Raises:
        SystemTooLargeError: They do not fit.
        InvalidRequestError: The bytes to continue from are not a checkpoint.
    """
    origin = request.origin
    if isinstance(origin, bytes):
        n_atoms = CheckpointSummary.from_bytes(origin).n_atoms
    else:
        n_atoms = len(origin.system)
    n_bytes = n_atoms * (_SNAPSHOT_FLOATS * _FLOAT64 + _SNAPSHOT_INTEGERS)
    if n_bytes > max_bytes:
        text = f"the snapshots of {n_atoms} atoms take {n_bytes} bytes each"
        text = f"{text}, more than the limit of {max_bytes}; move a smaller system, {_SETTING}"
        raise SystemTooLargeError(text)


def accept_reports(request: RelaxRequest, max_bytes: int) -> None:
    """Accept any relaxation: its reports are smaller than the request itself."""


def _prediction_bytes(n_atoms: int, outputs: Set[str], width: int) -> int:
    n_floats = n_atoms * (3 * len(outputs & set(FORCES)) + ("atom_energies" in outputs))
    n_floats += 9 * len(outputs & STRESSES)
    return width * n_floats


def _or_float32(dtype: str) -> str:
    return "" if dtype == "float32" else " or for float32 arrays (reply_dtype)"
