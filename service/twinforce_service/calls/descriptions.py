"""The description of each call, which REST and gRPC share."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from twinforce_dynamics.codec.propagation import propagate_request_from_proto, snapshot_to_proto
from twinforce_dynamics.codec.relaxation import relax_request_from_proto, relaxed_to_proto
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    Nonconservativity,
    NonconservativityRequest,
    Prediction,
    PredictRequest,
)
from twinforce_proto.codec.messages import predict_reply_to_proto, predict_request_from_proto
from twinforce_proto.codec.nonconservativity import (
    nonconservativity_reply_to_proto,
    nonconservativity_request_from_proto,
)
from twinforce_proto.v1 import inference_pb2 as pb
from twinforce_service.callers.allowances import Allowances
from twinforce_service.calls.bounds import CallLimits, accept_one
from twinforce_service.calls.conversion import (
    Converter,
    nonconservativity_bytes,
    prediction_bytes,
    relaxed_bytes,
    snapshot_bytes,
)
from twinforce_service.calls.dynamics import Dynamics
from twinforce_service.calls.message_sizes import (
    accept_reports,
    check_pair_norms,
    check_predictions,
    check_snapshots,
)
from twinforce_service.calls.nonconservativity import Jacobians
from twinforce_service.calls.predictions import predict
from twinforce_service.calls.status import StatusReader
from twinforce_service.engine.engine import Engine
from twinforce_service.scheduling.request import Walker

_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclass(frozen=True, slots=True)
class _Description(Generic[_Request, _Reply]):
    """The conversion of requests and replies of a call.

    Attributes:
        scope: Scope that a key needs for the call.
        message: Protobuf class of the request.
        decode: Returns the request in a message, or raises a `ServiceError`.
        encode: Returns the message of a reply to a request.
        check: Raises a `ServiceError` if a request asks for too much.
        n_bytes: Returns the approximate size of a reply; large ones are encoded in a thread.
        check_reply: Raises a `ServiceError` if a message of the reply to a request would exceed a
            number of bytes.
    """

    scope: str
    message: type[Message]
    decode: Callable[[Any], _Request]
    encode: Callable[[_Request, _Reply], Message]
    check: Callable[[_Request], None]
    n_bytes: Callable[[_Reply], int]
    check_reply: Callable[[_Request, int], None]


@dataclass(frozen=True, slots=True)
class UnaryCall(_Description[_Request, _Reply]):
    """A call with one reply.

    Attributes:
        answer: Returns the reply to a request within a timeout in s, or raises a `ServiceError`.
    """

    answer: Callable[[_Request, float | None], Coroutine[Any, Any, _Reply]]


@dataclass(frozen=True, slots=True)
class StreamingCall(_Description[_Request, _Reply]):
    """A call with a stream of replies.

    Attributes:
        answer: Yields the replies to a request within a timeout in s, or raises a `ServiceError`.
    """

    answer: Callable[[_Request, float | None], AsyncGenerator[_Reply, None]]


@dataclass(frozen=True, slots=True)
class Calls:
    """All calls of a service, under the names of their REST paths."""

    predict: UnaryCall[PredictRequest, list[Prediction]]
    nonconservativity: UnaryCall[NonconservativityRequest, Nonconservativity]
    propagate: StreamingCall[PropagateRequest, Snapshot]
    relax: StreamingCall[RelaxRequest, Relaxed]
    step: Callable[[PredictRequest, float | None, Walker], Coroutine[Any, Any, list[Prediction]]]
    """Answers the next step of a walker within a timeout in s."""
    status: StatusReader
    """Reads the state of the service."""


def describe_calls(
    engine: Engine,
    jacobians: Jacobians,
    dynamics: Dynamics,
    allowances: Allowances,
    limits: CallLimits,
    converter: Converter,
    status: StatusReader,
) -> Calls:
    """Return the calls that these objects answer, within the allowances of each caller."""
    return Calls(
        status=status,
        step=partial(predict, engine, allowances),
        predict=UnaryCall(
            scope="predict",
            message=pb.PredictRequest,
            decode=predict_request_from_proto,
            encode=lambda request, predictions: predict_reply_to_proto(
                request.model, predictions, request.reply_dtype
            ),
            check=limits.check_request,
            n_bytes=prediction_bytes,
            check_reply=check_predictions,
            answer=partial(predict, engine, allowances, converter=converter),
        ),
        nonconservativity=UnaryCall(
            scope="nonconservativity",
            message=pb.NonconservativityRequest,
            decode=nonconservativity_request_from_proto,
            encode=lambda request, found: nonconservativity_reply_to_proto(request.model, found),
            check=accept_one,
            n_bytes=nonconservativity_bytes,
            check_reply=check_pair_norms,
            answer=jacobians.nonconservativity,
        ),
        propagate=StreamingCall(
            scope="propagate",
            message=pb.PropagateRequest,
            decode=propagate_request_from_proto,
            encode=lambda _, snapshot: snapshot_to_proto(snapshot),
            check=accept_one,
            n_bytes=snapshot_bytes,
            check_reply=check_snapshots,
            answer=dynamics.propagate,
        ),
        relax=StreamingCall(
            scope="relax",
            message=pb.RelaxRequest,
            decode=relax_request_from_proto,
            encode=lambda _, relaxed: relaxed_to_proto(relaxed),
            check=accept_one,
            n_bytes=relaxed_bytes,
            check_reply=accept_reports,
            answer=dynamics.relax,
        ),
    )
