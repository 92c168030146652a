"""Conversion of nonconservativity requests and replies to and from protobuf messages."""

import math

import numpy as np
from numpy.typing import NDArray

from twinforce_proto.codec.arrays import array_from_proto, array_to_proto
from twinforce_proto.codec.messages import (
    outputs_from_proto,
    outputs_to_proto,
    provenance_from_proto,
    provenance_to_proto,
    required_system_from_proto,
    system_to_proto,
    timings_from_proto,
    timings_to_proto,
)
from twinforce_proto.errors import PredictionError
from twinforce_proto.jacobian import Nonconservativity, NonconservativityRequest
from twinforce_proto.outputs import FORCES
from twinforce_proto.v1 import inference_pb2 as pb


def nonconservativity_request_to_proto(
    request: NonconservativityRequest,
) -> pb.NonconservativityRequest:
    """Encode a request."""
    (output,) = outputs_to_proto([request.output])
    return pb.NonconservativityRequest(
        model=request.model,
        system=system_to_proto(request.system),
        output=output,
        pairs=request.pairs,
    )


def nonconservativity_request_from_proto(
    message: pb.NonconservativityRequest,
) -> NonconservativityRequest:
    """Decode a request.

    Raises:
        InvalidRequestError: There is no system, or the output is not one of `FORCES`.
        InvalidSystemError: The system is invalid.
    """
    (output,) = outputs_from_proto([message.output]) if message.output else FORCES[:1]
    system = required_system_from_proto(message)
    return NonconservativityRequest(message.model, system, output, message.pairs)


def nonconservativity_reply_to_proto(
    model: str, result: Nonconservativity
) -> pb.NonconservativityReply:
    """Encode a reply, with its arrays in float32."""
    return pb.NonconservativityReply(
        model=model,
        value=result.value,
        jacobian_norm=result.jacobian_norm,
        antisymmetric_norm=result.antisymmetric_norm,
        pair_norms=_norms_to_proto(result.pair_norms),
        antisymmetric_pair_norms=_norms_to_proto(result.antisymmetric_pair_norms),
        provenance=provenance_to_proto(result.provenance),
        timings=timings_to_proto(result.timings),
    )


def nonconservativity_reply_from_proto(message: pb.NonconservativityReply) -> Nonconservativity:
    """Decode a reply.

    Raises:
        PredictionError: The bytes of an array do not fit its shape.
    """
    return Nonconservativity(
        value=message.value,
        jacobian_norm=message.jacobian_norm,
        antisymmetric_norm=message.antisymmetric_norm,
        pair_norms=_norms_from_proto(message, "pair_norms"),
        antisymmetric_pair_norms=_norms_from_proto(message, "antisymmetric_pair_norms"),
        provenance=provenance_from_proto(message),
        timings=timings_from_proto(message),
    )


def _norms_to_proto(norms: NDArray[np.float64] | None) -> pb.Array | None:
    return None if norms is None else array_to_proto(norms, "float32")


def _norms_from_proto(message: pb.NonconservativityReply, field: str) -> NDArray[np.float64] | None:
    if not message.HasField(field):
        return None
    flat = array_from_proto(getattr(message, field), field, (-1,), PredictionError)
    n_atoms = math.isqrt(len(flat))
    if n_atoms**2 != len(flat):
        got = f"{len(flat)} numbers"
        raise PredictionError.expected(field, "shape [n_atoms, n_atoms]", got)
    return flat.reshape(n_atoms, n_atoms)
