"""What to ask, when to ask again and what the answer means, without any I/O.

Every conversation with the service is a `Flow`: a generator that yields a `Call` (send this and
hand me the reply, or throw me the error) or a `Pause` (wait), and returns the result. `Client`
drives it with blocking I/O, `AsyncClient` with asyncio.
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
    """Wait."""

    seconds: float


Flow = Generator[Call | Pause, Any, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a client behaves.

    Attributes:
        timeout: For a whole request, all attempts together, in s.
        max_retries: How often to try again to reach a service that cannot be reached.
        encoding: Of REST bodies.
        reply_dtype: What the arrays of replies travel as.
        urgency: From 0, the most urgent, to 7.

    Raises:
        ValueError: The urgency is none of these.
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
    """What a client says and understands; each method is a flow."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._default_model = ""

    def predict(
        self, systems: Sequence[System], outputs: str | Sequence[str], model: str | None
    ) -> Flow[list[Prediction]]:
        """Evaluate systems together; none of them needs no call."""
        wanted = parse_outputs(outputs)
        if not systems:
            return []
        name = yield from self.name_of(model)
        dtype = self._options.reply_dtype
        message = predict_request_to_proto(PredictRequest(name, tuple(systems), wanted, dtype))
        return (yield from self._ask("Predict", lambda: message, _predictions(len(systems))))

    def step(
        self, encoder: StreamEncoder, system: System, outputs: frozenset[str]
    ) -> Flow[Prediction]:
        """Evaluate the next system of a walker.

        After an error, whoever's it was, the whole system is sent.
        """
        try:
            return (
                yield from self._ask(
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
        """Ask how far forces are from being a gradient."""
        name = yield from self.name_of(model)
        wanted = NonconservativityRequest(name, system, output, pairs)
        message = nonconservativity_request_to_proto(wanted)
        return (
            yield from self._ask(
                "Nonconservativity", lambda: message, nonconservativity_reply_from_proto
            )
        )

    def models(self) -> Flow[list[ModelInfo]]:
        """Ask what is served."""
        message = pb.ListModelsRequest()
        return (yield from self._ask("ListModels", lambda: message, _model_infos))

    def model(self, name: str | None) -> Flow[ModelInfo]:
        """Ask what one model declares."""
        message = pb.GetModelRequest(model=(yield from self.name_of(name)))
        return (yield from self._ask("GetModel", lambda: message, model_info_from_proto))

    def name_of(self, model: str | None) -> Flow[str]:
        """Return which model is meant; where none is named, the only one, else `water`.

        What is served is asked for once.
        """
        if model:
            return _checked(model)
        if not self._default_model:
            self._default_model = _default_of([info.name for info in (yield from self.models())])
        return self._default_model

    def _ask(
        self,
        method: Method,
        make_message: Callable[[], Message],
        understand: Callable[[Any], T],
        before_retry: Callable[[], None] = lambda: None,
    ) -> Flow[T]:
        """Ask until there is an answer, an error that asking again cannot mend, or no time left.

        Every request is a pure question, so asking again changes nothing at the service; but
        it is only done after errors that say that the work was not done.
        """
        give_up_at = time.monotonic() + self._options.timeout
        n_failures = 0
        while True:
            try:
                timeout = max(give_up_at - time.monotonic(), 0.001)
                return understand((yield Call(method, make_message(), timeout)))
            except (OverloadedError, UnavailableError) as error:
                pause = self.pause_after(error, n_failures)
                if pause is None or time.monotonic() + pause > give_up_at:
                    raise
            n_failures += 1
            before_retry()
            yield Pause(pause)

    def pause_after(self, error: ServiceError, n_failures: int) -> float | None:
        """Return how long to wait before asking again, in s; None where that is no use.

        Capped exponential back-off with full jitter, on top of what the service asked for. A
        service that says when to come back is asked until the time is over.
        """
        longest = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2.0**n_failures)
        if error.retry_after is not None:
            return error.retry_after + random.uniform(0.0, longest)
        if isinstance(error, OverloadedError) or n_failures >= self._options.max_retries:
            return None
        return random.uniform(0.0, longest)


def _predictions(n_systems: int) -> Callable[[pb.PredictReply], list[Prediction]]:
    def understand(reply: pb.PredictReply) -> list[Prediction]:
        if len(reply.predictions) != n_systems:
            got = len(reply.predictions)
            raise PredictionError(f"reply: expected {n_systems} predictions, got {got}")
        return predict_reply_from_proto(reply)

    return understand


def _model_infos(reply: pb.ListModelsReply) -> list[ModelInfo]:
    return [model_info_from_proto(each) for each in reply.models]


def _checked(model: str) -> str:
    if is_model_name(model):
        return model
    raise InvalidRequestError(
        f"model: expected letters, digits, '.', '_' and '-', got {model!r}", field="model"
    )


def _default_of(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    if BUNDLED_MODEL in names:
        return BUNDLED_MODEL
    served = ", ".join(names) or "none"
    raise InvalidRequestError(f"model: expected a name, got none; served are: {served}")
