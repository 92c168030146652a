"""Walkers to and from protobuf messages, both directions side by side."""

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
from twinforce_dynamics.ensembles import (
    FS,
)
from twinforce_dynamics.requests import PropagateRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import InvalidRequestError, PredictionError
from twinforce_proto.codec.arrays import array_from_proto, array_to_proto
from twinforce_proto.codec.messages import (
    cell_from_proto,
    provenance_from_proto,
    provenance_to_proto,
    system_from_proto,
    system_to_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb


def propagate_request_to_proto(request: PropagateRequest) -> pb.PropagateRequest:
    """Encode a request."""
    origin = request.origin
    return pb.PropagateRequest(
        model=request.model,
        start=start_to_proto(origin) if isinstance(origin, Start) else None,
        checkpoint=origin if isinstance(origin, bytes) else None,
        n_steps=request.n_steps,
        interval=request.interval,
    )


def propagate_request_from_proto(message: pb.PropagateRequest) -> PropagateRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: When it makes no sense; `field` says where.
        InvalidSystemError: When the system is invalid.
    """
    origin: Start | bytes = message.checkpoint
    if message.HasField("start"):
        origin = start_from_proto(message.start)
    elif not message.checkpoint:
        raise InvalidRequestError.expected("origin", "a start or a checkpoint", "neither")
    return PropagateRequest(message.model, origin, message.n_steps, message.interval)


def start_to_proto(start: Start, *, with_velocities: bool = True) -> pb.Start:
    """Encode what a walker sets out with."""
    velocities = array_to_proto(start.velocities * FS) if with_velocities else None
    return pb.Start(
        system=system_to_proto(start.system),
        velocities=velocities,
        masses=array_to_proto(start.masses),
        fixed_atoms=start.fixed_atoms.astype("<i4").tobytes(),
        integrator=integrator_to_proto(start.integrator),
        random_state=random_state_to_proto(start.random_state),
    )


def start_from_proto(message: pb.Start, *, with_velocities: bool = True) -> Start:
    """Decode what a walker sets out with.

    Args:
        message: As it came.
        with_velocities: Whether it holds any; else they are zero.

    Raises:
        InvalidRequestError: When it makes no sense; `field` says where.
        InvalidSystemError: When the system or the shape of the velocities is invalid.
    """
    if not message.HasField("system"):
        raise InvalidRequestError.expected("system", "one", "none")
    system = system_from_proto(message.system)
    masses = None
    if message.HasField("masses"):
        masses = array_from_proto(message.masses, "masses", (len(system),), InvalidRequestError)
    if len(message.fixed_atoms) % 4:
        raise InvalidRequestError.expected(
            "fixed_atoms", "a multiple of 4 bytes", len(message.fixed_atoms)
        )
    velocities = np.zeros((len(system), 3))
    if with_velocities:
        velocities = array_from_proto(message.velocities, "velocities", velocities.shape) / FS
    return Start(
        system,
        velocities,
        integrator_from_proto(message.integrator),
        masses=masses,
        fixed_atoms=np.frombuffer(message.fixed_atoms, dtype="<i4"),
        random=_random_from_proto(message),
    )


def snapshot_to_proto(snapshot: Snapshot) -> pb.Snapshot:
    """Encode a moment of a walker."""
    disagreement = snapshot.disagreement
    return pb.Snapshot(
        step=snapshot.step,
        time_fs=snapshot.time_fs,
        positions=array_to_proto(snapshot.positions),
        velocities=array_to_proto(snapshot.velocities * FS),
        cell=array_to_proto(snapshot.cell) if snapshot.cell.any() else None,
        energy=snapshot.energy,
        kinetic_energy=snapshot.kinetic_energy,
        conserved_energy=snapshot.conserved_energy,
        temperature_k=snapshot.temperature_k,
        species_temperatures=snapshot.species_temperatures,
        disagreement=None if disagreement is None else _disagreement_to_proto(disagreement),
        checkpoint=snapshot.checkpoint,
        provenance=provenance_to_proto(snapshot.provenance),
    )


def snapshot_from_proto(message: pb.Snapshot) -> Snapshot:
    """Decode a moment of a walker.

    Raises:
        PredictionError: When the bytes do not fit.
    """
    cell = cell_from_proto(message)
    has_disagreement = message.HasField("disagreement")
    return Snapshot(
        step=message.step,
        time_fs=message.time_fs,
        positions=array_from_proto(message.positions, "positions", (-1, 3), PredictionError),
        velocities=array_from_proto(message.velocities, "velocities", (-1, 3), PredictionError)
        / FS,
        cell=np.zeros((3, 3)) if cell is None else cell,
        energy=message.energy,
        kinetic_energy=message.kinetic_energy,
        conserved_energy=message.conserved_energy,
        temperature_k=message.temperature_k,
        species_temperatures=_in_order(message.species_temperatures),
        disagreement=_disagreement(message.disagreement) if has_disagreement else None,
        checkpoint=message.checkpoint,
        provenance=provenance_from_proto(message),
    )


def _disagreement_to_proto(disagreement: Disagreement) -> pb.ForceDisagreement:
    return pb.ForceDisagreement(
        rmse=disagreement.rmse,
        species_rmse=disagreement.species_rmse,
        work=disagreement.work,
        total_work=disagreement.total_work,
    )


def _disagreement(message: pb.ForceDisagreement) -> Disagreement:
    species = _in_order(message.species_rmse)
    return Disagreement(message.rmse, species, message.work, message.total_work)


def _in_order(values: Mapping[str, float]) -> dict[str, float]:
    """Return them by atomic number, as maps of protobuf have no order."""
    return {symbol: values[symbol] for symbol in SYMBOLS if symbol in values}


def _random_from_proto(message: pb.Start) -> int | Mapping[str, Any] | None:
    if message.HasField("seed"):
        return message.seed
    if not message.HasField("random_state"):
        return None
    return random_state_from_proto(message.random_state)
