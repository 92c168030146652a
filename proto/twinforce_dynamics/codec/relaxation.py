"""Conversion of relaxations to and from protobuf messages."""

from twinforce_dynamics.codec.integrator import force_kind_from_proto, force_kind_to_proto
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import DEFAULT_FMAX, DEFAULT_MAX_STEPS, RelaxRequest
from twinforce_proto import InvalidRequestError, PredictionError
from twinforce_proto.codec.arrays import (
    INT32,
    array_from_proto,
    array_to_proto,
    bytes_of,
    int32_from_bytes,
)
from twinforce_proto.codec.messages import (
    provenance_from_proto,
    provenance_to_proto,
    required_system_from_proto,
    system_to_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb


def relax_request_to_proto(request: RelaxRequest) -> pb.RelaxRequest:
    """Encode a request."""
    return pb.RelaxRequest(
        model=request.model,
        system=system_to_proto(request.system),
        force_kind=force_kind_to_proto(request.force_kind),
        fmax=request.fmax,
        max_steps=request.max_steps,
        interval=request.interval,
        fixed_atoms=bytes_of(request.fixed_atoms, INT32),
    )


def relax_request_from_proto(message: pb.RelaxRequest) -> RelaxRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: A value is invalid; `field` names it.
        InvalidSystemError: The system is invalid.
    """
    return RelaxRequest(
        message.model,
        required_system_from_proto(message),
        force_kind=force_kind_from_proto(message.force_kind or pb.FORCE_KIND_HYBRID),
        fmax=message.fmax or DEFAULT_FMAX,
        max_steps=message.max_steps or DEFAULT_MAX_STEPS,
        interval=message.interval,
        fixed_atoms=int32_from_bytes(message.fixed_atoms, "fixed_atoms", InvalidRequestError),
    )


def relaxed_to_proto(relaxed: Relaxed) -> pb.Relaxed:
    """Encode the progress of a relaxation."""
    return pb.Relaxed(
        step=relaxed.step,
        positions=array_to_proto(relaxed.positions),
        energy=relaxed.energy,
        largest_force=relaxed.largest_force,
        driven_by=force_kind_to_proto(relaxed.driven_by),
        is_converged=relaxed.is_converged,
        is_last=relaxed.is_last,
        provenance=provenance_to_proto(relaxed.provenance),
    )


def relaxed_from_proto(message: pb.Relaxed) -> Relaxed:
    """Decode the progress of a relaxation.

    Raises:
        PredictionError: The bytes of an array do not fit its shape.
    """
    is_direct = message.driven_by == pb.FORCE_KIND_DIRECT
    return Relaxed(
        step=message.step,
        positions=array_from_proto(message.positions, "positions", (-1, 3), PredictionError),
        energy=message.energy,
        largest_force=message.largest_force,
        driven_by="direct" if is_direct else "conservative",
        is_converged=message.is_converged,
        is_last=message.is_last,
        provenance=provenance_from_proto(message),
    )
