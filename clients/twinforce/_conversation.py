"""The logic of a client without I/O: requests, retries and the decoding of replies.

Every exchange with the service is a `Flow`: a generator that yields a `Call`, to be sent the reply
or thrown the error, or a `Pause`, and returns the result. `Client` executes flows with blocking
I/O, `AsyncClient` with asyncio.
"""

import random
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from google.protobuf.message import Message

from twinforce._transports.transport import Call, Method
from twinforce_proto import (
    InvalidRequestError,
    ModelInfo,
    Nonconservativity,
    NonconservativityRequest,
    OverloadedError,
    Prediction,
    PredictionError,
    PredictRequest,
    ServiceError,
    System,
    UnavailableError,
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
from twinforce_proto.codec.stream import StreamEncoder, stream_reply_from_proto
from twinforce_proto.headers import BUNDLED_MODEL, LEAST_URGENT, NORMAL_URGENCY, is_model_name
from twinforce_proto.v1 import inference_pb2 as pb

_FIRST_BACKOFF_S = 0.1
_LONGEST_BACKOFF_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait between two attempts."""

    seconds: float


Flow = Generator[Call | Pause, Any, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a client; `Client` documents them.

    Raises:
        ValueError: The urgency is not one of the levels.
    """

    timeout: float = 60.0
    max_retries: int = 3
    encoding: Literal["protobuf", "json"] = "protobuf"
    reply_dtype: Literal["float64", "float32"] = "float64"
    urgency: int = NORMAL_URGENCY

    def __post_init__(self) -> None:
        if self.urgency not in range(LEAST_URGENT + 1):
            raise ValueError(
                f"urgency: expected a whole number from 0, the most urgent, to {LEAST_URGENT}, "
                f"got {self.urgency!r}"
            )


class Conversation:
    """The flows of one client."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._default_model = ""

    def predict(
        self, systems: Sequence[System], outputs: str | Sequence[str], model: str | None
    ) -> Flow[list[Prediction]]:
        """Evaluate systems in one request; an empty list makes no call."""
        parsed_outputs = parse_outputs(outputs)
        if not systems:
            return []
        name = yield from self.resolve_model(model)
        request = PredictRequest(name, tuple(systems), parsed_outputs, self._options.reply_dtype)
        message = predict_request_to_proto(request)
        return (yield from self._call("Predict", lambda: message, _predictions(len(systems))))

    def step(
        self, encoder: StreamEncoder, system: System, outputs: frozenset[str]
    ) -> Flow[Prediction]:
        """Evaluate the next system of a walker.

        After any error, the next message holds the whole system.
        """
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
        self, system: System, model: str | None, pairs: bool, output: str
    ) -> Flow[Nonconservativity]:
        """Measure how far forces are from being a gradient."""
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

    def resolve_model(self, model: str | None) -> Flow[str]:
        """Return the name of the model to use: the default model if none is given.

        The default is the only served model, or else `water`; it is looked up once.
        """
        if model:
            return _checked_name(model)
        if not self._default_model:
            self._default_model = _default_of([info.name for info in (yield from self.models())])
        return self._default_model

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
        give_up_at = time.monotonic() + self._options.timeout
        n_failures = 0
        while True:
            try:
                timeout = max(give_up_at - time.monotonic(), 0.001)
                return parse((yield Call(method, make_message(), timeout)))
            except (OverloadedError, UnavailableError) as error:
                pause = self.pause_after(error, n_failures)
                if pause is None or time.monotonic() + pause > give_up_at:
                    raise
            n_failures += 1
            before_retry()
            yield Pause(pause)

    def pause_after(self, error: ServiceError, n_failures: int) -> float | None:
        """Return the time to wait before the next attempt, in s; None means do not retry.

        The wait is a capped exponential back-off with full jitter, on top of the `retry_after` of
        the error. An overloaded service that gives a `retry_after` is retried without a limit.
        """
        longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**n_failures)
        if error.retry_after is not None:
            return error.retry_after + random.uniform(0.0, longest)
        if isinstance(error, OverloadedError) or n_failures >= self._options.max_retries:
            return None
        return random.uniform(0.0, longest)


def _predictions(n_systems: int) -> Callable[[pb.PredictReply], list[Prediction]]:
    def parse(reply: pb.PredictReply) -> list[Prediction]:
        if len(reply.predictions) != n_systems:
            got = len(reply.predictions)
            raise PredictionError(f"reply: expected {n_systems} predictions, got {got}")
        return predict_reply_from_proto(reply)

    return parse


def _model_infos(reply: pb.ListModelsReply) -> list[ModelInfo]:
    return [model_info_from_proto(info) for info in reply.models]


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
