"""The blocking client: drives the flows of a `Conversation` over a one-method transport."""

import time
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing
from threading import Lock
from typing import Literal, Self, TypeVar, cast, overload

from google.protobuf.message import Message

from twinforce._conversation import Conversation, Flow, Options, Pause
from twinforce._runs import (
    PropagateRun,
    RelaxRun,
    ResumingRun,
    Run,
    ended,
    model_of,
    origin_of,
)
from twinforce._transports.grpc import GrpcTransport
from twinforce._transports.rest import RestTransport
from twinforce._transports.transport import Call, Connection, Transport
from twinforce._transports.url import Url, parse_url
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    ModelInfo,
    Nonconservativity,
    Prediction,
    ServiceError,
    System,
    parse_outputs,
)
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.headers import NORMAL_URGENCY

T = TypeVar("T")


class Client:
    """Asks a TwinForce service for predictions; one may serve many threads.

    It connects when it is first used. Pickled or copied, it is a new client of the same
    service.

    Where no model is named, the only one that is served is meant, else the one called `water`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        max_retries: int = 3,
        encoding: Literal["protobuf", "json"] = "protobuf",
        reply_dtype: Literal["float64", "float32"] = "float64",
        urgency: int = NORMAL_URGENCY,
    ) -> None:
        """Say where the service is and how to talk to it.

        Args:
            url: Such as grpc://host:8001 or http://host:8000; grpcs:// and https:// for TLS.
            timeout: For a whole request, all attempts together, in s.
            max_retries: How often to try again to reach a service that cannot be reached. One
                that is overloaded and says when to come back is asked until the time is over.
            encoding: Of bodies over http.
            reply_dtype: What the arrays of replies travel as.
            urgency: From 0, the most urgent, to 7: where requests wait, one that is a level more
                urgent goes before all that have not waited a minute longer.

        Raises:
            ValueError: When it is no url of a service, or no urgency.
        """
        self._url = parse_url(url)
        self._options = Options(
            timeout=timeout,
            max_retries=max_retries,
            encoding=encoding,
            reply_dtype=reply_dtype,
            urgency=urgency,
        )
        self._start()

    @property
    def url(self) -> str:
        """Where the service is."""
        return str(self._url)

    @overload
    def predict(
        self, systems: System, outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, systems: Sequence[System], outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> list[Prediction]: ...

    def predict(
        self,
        systems: System | Sequence[System],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Evaluate one system, or several together.

        Args:
            systems: One, for one prediction; or a list, for a list in the same order.
            outputs: What is wanted, of `OUTPUTS`; "hybrid" is the energy and both forces.
            model: Its name.

        Raises:
            ServiceError: What went wrong; nothing is returned for any of the systems.
        """
        if isinstance(systems, System):
            return self._run(self._conversation.predict([systems], outputs, model))[0]
        return self._run(self._conversation.predict(systems, outputs, model))

    def stream(
        self, model: str | None = None, outputs: str | Sequence[str] = DEFAULT_OUTPUTS
    ) -> "Stream":
        """Return a context manager for a walker, whose systems differ in coordinates only.

        Args:
            model: Its name.
            outputs: What is wanted of each system, where nothing else is said.
        """
        return Stream(self, model, outputs)

    def nonconservativity(
        self,
        system: System,
        model: str | None = None,
        pairs: bool = False,
        *,
        output: str = "direct_forces",
    ) -> Nonconservativity:
        """Measure how far forces are from being a gradient, from their exact derivatives.

        The service makes a backward pass for each coordinate, and serves others in between: for
        hundreds of atoms that takes longer than the time-out of most clients.

        Args:
            system: Evaluated alone.
            model: Its name.
            pairs: Whether the norms of each pair of atoms are wanted too.
            output: Which forces; "conservative_forces" are a gradient up to rounding.

        Raises:
            ServiceError: What went wrong.
        """
        return self._run(self._conversation.nonconservativity(system, model, pairs, output))

    def propagate(
        self,
        origin: Start | Snapshot | bytes,
        n_steps: int,
        interval: int = 0,
        *,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Snapshot, None, None]:
        """Move a system on the server, and yield what is to be seen of it as it moves.

        The first snapshot is the start, unless this goes on from another snapshot. Where the
        service cannot be reached it goes on from the last snapshot once it can. Nothing is
        computed far ahead of what is taken; closing the iterator ends the work.

        Args:
            origin: What moves and how; or a snapshot, or the checkpoint in it, to go on from.
            n_steps: Inner ones, from here; whole outer steps.
            interval: Inner steps from one snapshot to the next; whole outer steps. 0: the last
                one alone.
            model: Its name; that of the checkpoint, where there is one.
            timeout: For all of it, in s.

        Raises:
            ServiceError: What went wrong, after the last good snapshot.
        """
        start = origin_of(origin)
        name = self._run(self._conversation.name_of(model or model_of(start)))
        return self._follow(PropagateRun(PropagateRequest(name, start, n_steps, interval)), timeout)

    def relax(
        self,
        system: System,
        *,
        force_kind: Literal["hybrid", "conservative", "direct"] = "hybrid",
        fmax: float = 0.05,
        max_steps: int = 500,
        interval: int = 10,
        fixed_atoms: Sequence[int] = (),
        model: str | None = None,
        timeout: float | None = None,
    ) -> Generator[Relaxed, None, None]:
        """Relax a system on the server, in its cell; yield how far that is, and the end last.

        Down to where no force is larger than `fmax`: on direct forces first and on conservative
        ones to finish, unless `force_kind` names one of them. After a lost connection it goes on
        from the last positions that came.

        Args:
            system: Where it starts.
            force_kind: "hybrid", "conservative" or "direct".
            fmax: The largest force on an atom that counts as none, in eV/Å.
            max_steps: After which it ends also where forces are larger; `is_converged` tells.
            interval: Steps from one report to the next; 0: the last one alone.
            fixed_atoms: The places of atoms that do not move.
            model: Its name.
            timeout: For all of it, in s.

        Raises:
            ServiceError: What went wrong.
        """
        name = self._run(self._conversation.name_of(model))
        request = RelaxRequest(
            name,
            system,
            force_kind=force_kind,
            fmax=fmax,
            max_steps=max_steps,
            interval=interval,
            fixed_atoms=fixed_atoms,
        )
        return self._follow(RelaxRun(request), timeout)

    def models(self) -> list[ModelInfo]:
        """Return what every served model declares."""
        return self._run(self._conversation.models())

    def model(self, name: str | None = None) -> ModelInfo:
        """Return what one model declares.

        Raises:
            UnknownModelError: No such model is served.
        """
        return self._run(self._conversation.model(name))

    def close(self) -> None:
        """Close the connection; streams end."""
        with self._lock:
            self._is_closed = True
            if self._transport is not None:
                self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __getstate__(self) -> tuple[Url, Options]:
        return self._url, self._options

    def __setstate__(self, state: tuple[Url, Options]) -> None:
        self._url, self._options = state
        self._start()

    def _start(self) -> None:
        self._conversation = Conversation(self._options)
        self._lock = Lock()
        self._is_closed = False
        self._transport: Connection | None = None

    def _connection(self) -> Connection:
        with self._lock:
            if self._is_closed:
                raise RuntimeError(f"{self!r} is closed")
            if self._transport is None:
                self._transport = _connect(self._url, self._options)
                # Not __del__, which at exit would wait for threads that are already gone.
                self._end = weakref.finalize(self, self._transport.close)
            return self._transport

    def _follow(self, run: Run[T], timeout: float | None) -> Generator[T, None, None]:
        connection = self._connection()
        resuming = ResumingRun(self._conversation, run, timeout)
        while not resuming.is_over:
            try:
                with closing(connection.receive(resuming.call())) as replies:
                    for reply in replies:
                        yield resuming.take(reply)
                if not resuming.is_over:
                    raise ended()
            except ServiceError as error:
                if not resuming.is_over:
                    time.sleep(resuming.pause_after(error))

    def _run(self, flow: Flow[T]) -> T:
        return _drive(flow, self._connection())


class Stream:
    """One walker: after the first system only what changed is sent.

    That is the positions and, where it changed, the cell; a whole system goes out again when
    the atoms, `pbc`, charge or spin are other ones, after an error, and after the connection
    was lost. Threads may share a stream; their systems take turns.
    """

    def __init__(self, client: Client, model: str | None, outputs: str | Sequence[str]) -> None:
        self._client = client
        self._model = model
        self._outputs = parse_outputs(outputs)
        self._encoder: StreamEncoder | None = None
        self._transport: Transport | None = None
        self._lock = Lock()

    def predict(self, system: System, outputs: str | Sequence[str] | None = None) -> Prediction:
        """Evaluate the next system.

        Args:
            system: Best of the same atoms as the last one.
            outputs: What is wanted of this one, if not the same as of the others.

        Raises:
            ServiceError: What went wrong; the stream can be used further.
        """
        wanted = self._outputs if outputs is None else parse_outputs(outputs)
        with self._lock:
            encoder, transport = self._open()
            return _drive(self._client._conversation.step(encoder, system, wanted), transport)

    def close(self) -> None:
        """End the stream; a later `predict` begins a new one."""
        with self._lock:
            if self._transport is not None:
                self._transport.close()
            self._encoder = self._transport = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> tuple[StreamEncoder, Transport]:
        connection = self._client._connection()
        if self._encoder is None or self._transport is None:
            model = self._client._run(self._client._conversation.name_of(self._model))
            self._encoder = StreamEncoder(model, self._client._options.reply_dtype)
            self._transport = connection.stream()
        return self._encoder, self._transport


def _connect(url: Url, options: Options) -> Connection:
    if url.transport == "grpc":
        return GrpcTransport(url, options.urgency)
    return RestTransport(url, options.encoding, options.urgency)


def _drive(flow: Flow[T], transport: Transport) -> T:
    """Run a flow to its end with blocking I/O."""
    try:
        step = next(flow)
        while True:
            try:
                reply = _do(step, transport)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return cast(T, end.value)


def _do(step: Call | Pause, transport: Transport) -> Message | None:
    if isinstance(step, Pause):
        time.sleep(step.seconds)
        return None
    return transport.send(step)
