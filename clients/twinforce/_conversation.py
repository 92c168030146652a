"""The logic of a client without I/O: requests, retries and the decoding of replies.

Every exchange with the service is a `Flow`: a generator that yields a `Call`, to be sent the reply
or thrown the error, or a `Pause`, and returns the result. `Client` executes flows with blocking
I/O, `AsyncClient` with asyncio.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from twinforce._options import Options
from twinforce._retries import Outage, Retries
from twinforce._systems import SystemLike, as_system, as_systems
from twinforce._tracing import span_of
from twinforce._transports.transport import Call, Method, MissingMethodError
from twinforce_proto import (
    InvalidRequestError,
    ModelInfo,
    Nonconservativity,
    NonconservativityRequest,
    Prediction,
    PredictionError,
    PredictRequest,
    ServiceError,
    ServiceStatus,
    UnavailableError,
    UnknownModelError,
    parse_outputs,
)
from twinforce_proto.codec.messages import (
    model_info_from_proto,
    predict_reply_from_proto,
    predict_request_to_proto,
)
from twinforce_proto.codec.nonconservativity import (
    nonconservativity_reply_from_proto,
    nonconservativity_request_to_proto,
)
from twinforce_proto.codec.status import status_from_proto
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_from_proto
from twinforce_proto.headers import BUNDLED_MODEL, is_model_name
from twinforce_proto.v1 import inference_pb2 as pb

# Seconds after which a client that waits looks whether it was closed.
LONGEST_SLEEP_S = 0.1
# Methods that name no model and are younger than the API -> first version that has them.
_SINCE: dict[Method, str] = {"GetStatus": "0.2.0"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait between two attempts."""

    seconds: float


Flow = Generator[Call | Pause, Any, T]


class Conversation:
    """The flows of one client."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._outage = Outage()
        self._default_model = ""

    def predict(
        self, given: Iterable[SystemLike], outputs: str | Sequence[str], model: str | None
    ) -> Flow[list[Prediction]]:
        """Evaluate systems in one request; an empty list makes no call."""
        parsed_outputs = parse_outputs(outputs)
        systems = as_systems(given)
        if not systems:
            return []
        name = yield from self.resolve_model(model)
        request = PredictRequest(name, tuple(systems), parsed_outputs, self._options.reply_dtype)
        message = predict_request_to_proto(request)
        return (yield from self._call("Predict", lambda: message, _predictions(len(systems))))

    def step(
        self, encoder: StreamEncoder, given: SystemLike, outputs: frozenset[str]
    ) -> Flow[Prediction]:
        """Evaluate the next system of a walker.

        After any error, the next message holds the whole system.
        """
        system = as_system(given)
        try:
            return (
                yield from self._call(
                    "PredictStream",
                    lambda: encoder.encode(system, outputs),
                    stream_reply_from_proto,
                    encoder.reset,
                )
            )
        except BaseException:
            encoder.reset()
            raise

    def nonconservativity(
        self, given: SystemLike, model: str | None, pairs: bool, output: str
    ) -> Flow[Nonconservativity]:
        """Measure how far forces are from being a gradient."""
        system = as_system(given)
        name = yield from self.resolve_model(model)
        request = NonconservativityRequest(name, system, output, pairs)
        message = nonconservativity_request_to_proto(request)
        return (
            yield from self._call(
                "Nonconservativity", lambda: message, nonconservativity_reply_from_proto
            )
        )

    def models(self) -> Flow[list[ModelInfo]]:
        """Return the description of every served model."""
        message = pb.ListModelsRequest()
        return (yield from self._call("ListModels", lambda: message, _model_infos))

    def model(self, name: str | None) -> Flow[ModelInfo]:
        """Return the description of one model."""
        message = pb.GetModelRequest(model=(yield from self.resolve_model(name)))
        return (yield from self._call("GetModel", lambda: message, model_info_from_proto))

    def status(self) -> Flow[ServiceStatus]:
        """Return the state of the service.

        Raises:
            ServiceError: The service is too old to have this call.
        """
        message = pb.GetStatusRequest()
        return (yield from self._call("GetStatus", lambda: message, status_from_proto))

    def resolve_model(self, model: str | None) -> Flow[str]:
        """Return the name of the model to use: the default model if none is given.

        The default is the only served model, or else `water`; it is looked up once, as soon as
        the service has loaded its models.
        """
        if model:
            return _checked_name(model)
        if not self._default_model:
            infos = yield from self.models()
            if not infos:
                is_loaded = (yield from self.status()).is_ready
                infos = yield from self.models() if is_loaded else self._loaded_models()
            self._default_model = _default_of([info.name for info in infos])
        return self._default_model

    def _loaded_models(self) -> Flow[list[ModelInfo]]:
        """Return the description of every served model, once there is one."""
        message = pb.ListModelsRequest()
        return (yield from self._call("ListModels", lambda: message, _some_model_infos))

    def _call(
        self,
        method: Method,
        make_message: Callable[[], Message],
        parse: Callable[[Any], T],
        before_retry: Callable[[], None] = lambda: None,
    ) -> Flow[T]:
        """Make a call, and retry it while that may help and there is time left.

        Repeating a request is always safe, since it changes nothing at the service. It is done
        only after errors that mean that the request was not processed.
        """
        counts_outages = self._options.counts_outages
        retries = self._retries(self._options.timeout, counts_outages=counts_outages)
        with span_of(method) as span:
            while True:
                timeout = retries.begin()
                call = Call(method, make_message(), timeout, retries.n_lost, span.headers)
                try:
                    value = parse((yield call))
                except ServiceError as error:
                    _check_age(method, error)
                    pause = retries.pause_after(error)
                    span.note_failure(error)
                else:
                    retries.succeed()
                    return value
                before_retry()
                yield Pause(pause)

    def run_retries(self, timeout: float | None) -> Retries:
        """Return the attempts to follow a run.

        Args:
            timeout: Seconds until the end of the run; None means no limit.
        """
        return self._retries(timeout, counts_outages=True)

    def _retries(self, timeout: float | None, *, counts_outages: bool) -> Retries:
        return Retries(self._options, self._outage, timeout, counts_outages=counts_outages)


def _predictions(n_systems: int) -> Callable[[pb.PredictReply], list[Prediction]]:
    def parse(reply: pb.PredictReply) -> list[Prediction]:
        if len(reply.predictions) != n_systems:
            got = len(reply.predictions)
            raise PredictionError(f"reply: expected {n_systems} predictions, got {got}")
        return predict_reply_from_proto(reply)

    return parse


def _model_infos(reply: pb.ListModelsReply) -> list[ModelInfo]:
    return [model_info_from_proto(info) for info in reply.models]


def _some_model_infos(reply: pb.ListModelsReply) -> list[ModelInfo]:
    if not reply.models:
        raise UnavailableError("the service is still loading its models")
    return _model_infos(reply)


def _check_age(method: Method, error: ServiceError) -> None:
    """Raise another error for one that means that the service is older than the method."""
    if method not in _SINCE:
        return
    is_missing = isinstance(error, UnknownModelError) or any(
        isinstance(each, MissingMethodError) for each in (error, error.__cause__)
    )
    if is_missing:
        text = f"the service does not have this call: expected TwinForce {_SINCE[method]} or later"
        raise ServiceError(f"{method}: {text}") from error


def _checked_name(model: str) -> str:
    if is_model_name(model):
        return model
    raise InvalidRequestError.expected("model", "letters, digits, '.', '_' and '-'", repr(model))


def _default_of(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if BUNDLED_MODEL in names:
        return BUNDLED_MODEL
    served = ", ".join(names) or "none"
    raise InvalidRequestError.expected("model", f"the name of a served model ({served})", "none")
