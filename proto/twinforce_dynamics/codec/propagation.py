"""Conversion of molecular dynamics runs to and from protobuf messages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from twinforce_dynamics.codec.integrator import (
    integrator_from_proto,
    integrator_to_proto,
    random_state_from_proto,
    random_state_to_proto,
)
from twinforce_dynamics.disagreement import Disagreement
from twinforce_dynamics.elements import SYMBOLS
from twinforce_dynamics.requests import PropagateRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.steps import Floats
from twinforce_dynamics.trajectory import Snapshot
from twinforce_dynamics.units import FS
from twinforce_proto import InvalidRequestError, PredictionError
from twinforce_proto.codec.arrays import (
    INT32,
    array_from_proto,
    array_to_proto,
    bytes_of,
    int32_from_bytes,
)
from twinforce_proto.codec.messages import (
    cell_from_proto,
    provenance_from_proto,
    provenance_to_proto,
    required_system_from_proto,
    system_to_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb

_ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, 1)}


def propagate_request_to_proto(request: PropagateRequest) -> pb.PropagateRequest:
    """Encode a request."""
    origin = request.origin
    return pb.PropagateRequest(
        model=request.model,
        start=start_to_proto(origin) if isinstance(origin, Start) else None,
        checkpoint=origin if isinstance(origin, bytes) else None,
        n_steps=request.n_steps,
        interval=request.interval,
        allow_model_change=request.allow_model_change,
    )


def propagate_request_from_proto(message: pb.PropagateRequest) -> PropagateRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: A value is invalid; `field` names it.
        InvalidSystemError: The system or the shape of the velocities is invalid.
    """
    origin: Start | bytes = message.checkpoint
    if message.HasField("start"):
        origin = start_from_proto(message.start)
    elif not message.checkpoint:
        raise InvalidRequestError.expected("origin", "a start or a checkpoint", "neither")
    return PropagateRequest(
        message.model, origin, message.n_steps, message.interval, message.allow_model_change
    )


def start_to_proto(start: Start, *, with_velocities: bool = True) -> pb.Start:
    """Encode the start of a run."""
    velocities = array_to_proto(start.velocities * FS) if with_velocities else None
    return pb.Start(
        system=system_to_proto(start.system),
        velocities=velocities,
        masses=array_to_proto(start.masses),
        fixed_atoms=bytes_of(start.fixed_atoms, INT32),
        integrator=integrator_to_proto(start.integrator),
        random_state=random_state_to_proto(start.random_state),
    )


def start_from_proto(message: pb.Start, *, with_velocities: bool = True) -> Start:
    """Decode the start of a run.

    Args:
        message: Message to decode.
        with_velocities: False if the message holds no velocities; they are zero then.

    Raises:
        InvalidRequestError: A value is invalid; `field` names it.
        InvalidSystemError: The system or the shape of the velocities is invalid.
    """
    system = required_system_from_proto(message)
    masses = None
    if message.HasField("masses"):
        masses = array_from_proto(message.masses, "masses", (len(system),), InvalidRequestError)
    velocities = np.zeros((len(system), 3))
    if with_velocities:
        velocities = array_from_proto(message.velocities, "velocities", velocities.shape) / FS
    return Start(
        system,
        velocities,
        integrator_from_proto(message.integrator),
        masses=masses,
        fixed_atoms=int32_from_bytes(message.fixed_atoms, "fixed_atoms", InvalidRequestError),
        random=_random_from_proto(message),
    )


def snapshot_to_proto(snapshot: Snapshot, *, with_arrays: bool = True) -> pb.Snapshot:
    """Encode a snapshot of a run.

    Args:
        snapshot: Snapshot to encode.
        with_arrays: False leaves out the positions, the velocities and the cell.
    """
    disagreement = snapshot.disagreement
    arrays = _arrays_to_proto(snapshot) if with_arrays else {}
    return pb.Snapshot(
        step=snapshot.step,
        time_fs=snapshot.time_fs,
        energy=snapshot.energy,
        kinetic_energy=snapshot.kinetic_energy,
        conserved_energy=snapshot.conserved_energy,
        temperature_k=snapshot.temperature_k,
        species_temperatures=snapshot.species_temperatures,
        disagreement=None if disagreement is None else _disagreement_to_proto(disagreement),
        checkpoint=snapshot.checkpoint,
        provenance=provenance_to_proto(snapshot.provenance),
        **arrays,
    )


def snapshot_from_proto(
    message: pb.Snapshot, arrays: Mapping[str, Floats] | None = None
) -> Snapshot:
    """Decode a snapshot of a run.

    Args:
        message: Message to decode.
        arrays: Positions, velocities and cell by the names of the attributes; None takes them from
            the message.

    Raises:
        PredictionError: The bytes of an array do not fit its shape.
    """
    has_disagreement = message.HasField("disagreement")
    return Snapshot(
        step=message.step,
        time_fs=message.time_fs,
        energy=message.energy,
        kinetic_energy=message.kinetic_energy,
        conserved_energy=message.conserved_energy,
        temperature_k=message.temperature_k,
        species_temperatures=_by_atomic_number(message.species_temperatures),
        disagreement=_disagreement_from_proto(message.disagreement) if has_disagreement else None,
        checkpoint=message.checkpoint,
        provenance=provenance_from_proto(message),
        **(_arrays_from_proto(message) if arrays is None else arrays),
    )


def _arrays_to_proto(snapshot: Snapshot) -> dict[str, pb.Array]:
    arrays = {
        "positions": array_to_proto(snapshot.positions),
        "velocities": array_to_proto(snapshot.velocities * FS),
    }
    if snapshot.cell.any():
        arrays["cell"] = array_to_proto(snapshot.cell)
    return arrays


def _arrays_from_proto(message: pb.Snapshot) -> dict[str, Floats]:
    cell = cell_from_proto(message)
    velocities = array_from_proto(message.velocities, "velocities", (-1, 3), PredictionError)
    return {
        "positions": array_from_proto(message.positions, "positions", (-1, 3), PredictionError),
        "velocities": velocities / FS,
        "cell": np.zeros((3, 3)) if cell is None else cell,
    }


def _disagreement_to_proto(disagreement: Disagreement) -> pb.ForceDisagreement:
    return pb.ForceDisagreement(
        rmse=disagreement.rmse,
        species_rmse=disagreement.species_rmse,
        work=disagreement.work,
        total_work=disagreement.total_work,
    )


def _disagreement_from_proto(message: pb.ForceDisagreement) -> Disagreement:
    species_rmse = _by_atomic_number(message.species_rmse)
    return Disagreement(message.rmse, species_rmse, message.work, message.total_work)


def _by_atomic_number(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values in the order of atomic numbers, because protobuf maps have no order."""
    known = dict(values)  # a look-up in a protobuf map is slow
    symbols = sorted(known.keys() & _ATOMIC_NUMBERS.keys(), key=_ATOMIC_NUMBERS.__getitem__)
    return {symbol: known[symbol] for symbol in symbols}


def _random_from_proto(message: pb.Start) -> int | Mapping[str, Any] | None:
    if message.HasField("seed"):
        return message.seed
    if not message.HasField("random_state"):
        return None
    return random_state_from_proto(message.random_state)
