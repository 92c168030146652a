"""The blocking client: executes the flows of a `Conversation` over a transport."""

import os
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import Any, Literal, Self, TypeVar, cast, overload

from google.protobuf.message import Message

from twinforce._connections.forks import close_before_forks
from twinforce._connections.ownership import OfProcess
from twinforce._connections.threads import Connections
from twinforce._conversation import LONGEST_SLEEP_S, Conversation, Flow, Pause
from twinforce._options import Options, time_limit
from twinforce._runs import ResumingRun, Run, propagation, relaxation
from twinforce._systems import SystemLike, is_one_system
from twinforce._transports.access import Access, KeySource
from twinforce._transports.address_file import AddressFile, Server, locate
from twinforce._transports.following import FollowingConnection
from twinforce._transports.grpc import GrpcTransport
from twinforce._transports.replication.connections import ReplicatedConnection
from twinforce._transports.rest import RestTransport
from twinforce._transports.transport import Call, Connection, Transport
from twinforce._transports.url import Address, Url
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import DEFAULT_FMAX, DEFAULT_MAX_STEPS
from twinforce_dynamics.start import Start
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import (
    DEFAULT_OUTPUTS,
    ModelInfo,
    Nonconservativity,
    Prediction,
    ServiceError,
    parse_outputs,
)
from twinforce_proto.codec.stream import StreamEncoder
from twinforce_proto.headers import NORMAL_URGENCY

T = TypeVar("T")


class Client:
    """A client of a TwinForce service, which threads may share.

    It connects when it is first used. A pickled or copied client is a new client of the same
    service. A process that was forked opens its own connections.

    Where `model` is None, a method uses the only model that is served, or else the one called
    `water`.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float | None = 60.0,
        reconnect_timeout: float | Literal["timeout"] | None = "timeout",
        max_retries: int | None = None,
        encoding: Literal["protobuf", "json"] = "protobuf",
        reply_dtype: Literal["float64", "float32"] = "float64",
        urgency: int = NORMAL_URGENCY,
        key: KeySource | None = None,
        insecure_key: bool | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Create a client; no connection is made yet.

        Args:
            url: Address of the service, such as grpc://host:8001 or http://host:8000;
                grpcs:// and https:// use TLS. It may name several replicas, as in
                grpc://a:8001,b:8001, or all addresses of a name, as in grpc+dns://name:8001:
                walkers are spread over them by load, and move if theirs fails. Or the path of
                an address file, such as file:~/.twinforce/job-123.json, which is read again when
                the service cannot be reached; file+rest: uses HTTP.
            timeout: Seconds that one request may take, including all retries; None or infinity
                means no limit.
            reconnect_timeout: Seconds for which a service that cannot be reached is tried again.
                "timeout" means as long as `timeout`, against which that time counts. It does not
                if a number is given; None or infinity means no limit.
            max_retries: Maximum number of retries while the service cannot be reached; None means
                as many as there is time for. An overloaded service that says when to retry is
                retried until the timeout.
            encoding: Encoding of request and reply bodies over HTTP.
            reply_dtype: Precision of the arrays in replies.
            urgency: Level from 0, the most urgent, to 7. In the queue of the service, levels above
                3 make way for all other requests, for up to a minute per level; lower ones precede
                requests of this process only, unless the key of the caller allows more.
            key: Key that the service asks for, or a token: a text; or, if it is replaced now and
                then, the path of a file that holds it, or a function that returns it at once, both
                asked for each call. None means the environment variable TWINFORCE_KEY or the file
                in TWINFORCE_KEY_FILE, and an empty text none. It is sent with TLS or to this
                machine only.
            insecure_key: True to send the key over other connections, too; None means what the
                environment variable TWINFORCE_INSECURE_KEY says, or else False.
            ca: File of certificates to trust, in PEM, in place of those of the system; None means
                the environment variable TWINFORCE_CA. This and the next two are for TLS.
            certificate: File of the client's own certificate, or TWINFORCE_CERTIFICATE.
            private_key: File of its private key, or TWINFORCE_PRIVATE_KEY; None means that the file
                of the certificate holds it.

        Raises:
            ValueError: The url is not the address of a service, or an option is invalid.
        """
        self._url, access = locate(
            url,
            key=key,
            insecure_key=insecure_key,
            ca=ca,
            certificate=certificate,
            private_key=private_key,
        )
        self._options = Options(
            timeout=timeout,
            reconnect_timeout=reconnect_timeout,
            max_retries=max_retries,
            encoding=encoding,
            reply_dtype=reply_dtype,
            urgency=urgency,
            access=access,
        )
        self._start()

    @property
    def url(self) -> str:
        """Address of the service."""
        return str(self._url)

    @overload
    def predict(
        self, systems: SystemLike, outputs: str | Sequence[str] = ..., model: str | None = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        systems: Iterable[SystemLike],
        outputs: str | Sequence[str] = ...,
        model: str | None = ...,
    ) -> list[Prediction]: ...

    def predict(
        self,
        systems: SystemLike | Iterable[SystemLike],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> Prediction | list[Prediction]:
        """Evaluate one system, or several in one request.

        Args:
            systems: One system, for one prediction; or any iterable of systems, for a list in the
                same order. The `Atoms` of ASE will do; charge and spin are read from `atoms.info`.
            outputs: Quantities to compute, out of `OUTPUTS`; "hybrid" stands for the energy and
                both kinds of forces.
            model: Name of the model.

        Raises:
            ServiceError: The request failed. If one of several systems fails, nothing is returned
                for the others.
        """
        is_one = is_one_system(systems)
        several = cast(Iterable[SystemLike], [systems] if is_one else systems)
        predictions = self._execute(self._conversation.predict(several, outputs, model))
        return predictions[0] if is_one else predictions

    def predict_atoms(
        self,
        all_atoms: Iterable[Any],
        outputs: str | Sequence[str] = DEFAULT_OUTPUTS,
        model: str | None = None,
    ) -> list[Any]:
        """Evaluate many `Atoms` of ASE, as many in a request as are allowed; return labeled copies.

        Each copy has a calculator with the results, which ASE writes to files and databases. Both
        kinds of forces, if they were asked for, the stresses, the disagreement of the forces and
        the provenance are in its `arrays` and `info`. The calculator has conservative forces and
        stress, or else direct ones.

        Args:
            all_atoms: `Atoms` of ASE; charge and spin are read from `atoms.info`.
            outputs: Quantities to compute, out of `OUTPUTS`; "hybrid" stands for the energy and
                both kinds of forces.
            model: Name of the model.

        Raises:
            ModuleNotFoundError: ASE is not installed.
            ModelChangedError: The service came to have other weights meanwhile.
            ServiceError: A request failed. An error of one structure holds its index, and is also
                a `CalculatorError` of ASE.
        """
        from twinforce.ase.labeling import Labeling

        labeling = Labeling(all_atoms)
        for systems in labeling.requests():
            with labeling.indexing():
                labeling.add(self.predict(systems, outputs, model))
        return labeling.labeled

    def stream(
        self, model: str | None = None, outputs: str | Sequence[str] = DEFAULT_OUTPUTS
    ) -> "Stream":
        """Return a context manager for a walker, whose systems differ in coordinates only.

        Args:
            model: Name of the model.
            outputs: Quantities to compute for each system, unless `Stream.predict` names others.
        """
        return Stream(self, model, outputs)

    def nonconservativity(
        self,
        system: SystemLike,
        model: str | None = None,
        pairs: bool = False,
        *,
        output: str = "direct_forces",
    ) -> Nonconservativity:
        """Measure how far forces are from being a gradient, from their exact derivatives.

        The service makes one backward pass for each coordinate and serves other requests between
        them. For hundreds of atoms this can take longer than the default timeout.

        Args:
            system: The system to evaluate.
            model: Name of the model.
            pairs: True to compute the norms for each pair of atoms too.
            output: Forces to measure; "conservative_forces" are a gradient up to rounding.

        Raises:
            ServiceError: The request failed.
        """
        return self._execute(self._conversation.nonconservativity(system, model, pairs, output))

    def propagate(
        self,
        origin: Start | Snapshot | bytes,
        n_steps: int,
        interval: int = 0,
        *,
        model: str | None = None,
        allow_model_change: bool = False,
        timeout: float | None = None,
    ) -> Generator[Snapshot, None, None]:
        """Run molecular dynamics on the server and yield snapshots as they arrive.

        The first snapshot is the start, unless the run continues from another snapshot. If the
        connection is lost, the run resumes from the last snapshot once the service can be reached
        again. The service computes only a little ahead of what is consumed; closing the
        iterator ends the run.

        Args:
            origin: The start of a trajectory, or a snapshot or its checkpoint to continue from.
            n_steps: Number of inner steps to take from here; a multiple of those in an outer step.
            interval: Inner steps between snapshots; a multiple of those in an outer step. 0 yields
                only the last snapshot.
            model: Name of the model; None means the model of the checkpoint, if there is one.
            allow_model_change: True to go on with a logged warning if the service has other weights
                of the model than the run began with, such as those of a checkpoint.
            timeout: Seconds that the whole run may take; None means no limit.

        Raises:
            ModelChangedError: The service has other weights than the run began with.
            ServiceError: The run failed, after the last snapshot that was yielded.
            ValueError: The timeout is not a positive number.
        """
        timeout = time_limit("timeout", timeout)
        flow = propagation(self._conversation, origin, n_steps, interval, model, allow_model_change)
        return self._follow(self._execute(flow), timeout)

    def relax(
        self,
        system: SystemLike,
        *,
        force_kind: Literal["hybrid", "conservative", "direct"] = "hybrid",
        fmax: float = DEFAULT_FMAX,
        max_steps: int = DEFAULT_MAX_STEPS,
        interval: int = 10,
        fixed_atoms: Sequence[int] = (),
        model: str | None = None,
        allow_model_change: bool = False,
        timeout: float | None = None,
    ) -> Generator[Relaxed, None, None]:
        """Relax the positions of a system on the server; yield reports, the final one last.

        The cell stays fixed. The relaxation ends when no force is larger than `fmax`. With
        `force_kind` "hybrid" it follows direct forces first and finishes on conservative ones. If
        the connection is lost, it resumes from the last positions received.

        Args:
            system: The system to start from.
            force_kind: "hybrid", "conservative" or "direct".
            fmax: Largest force on an atom at convergence, in eV/Å.
            max_steps: Number of steps after which to stop without convergence; see
                `Relaxed.is_converged`.
            interval: Steps between reports; 0 yields only the final one.
            fixed_atoms: Indices of atoms that must not move, besides those that a FixAtoms among
                the constraints of ASE atoms fixes.
            model: Name of the model.
            allow_model_change: True to go on with a logged warning if the service has other weights
                of the model than the relaxation began with.
            timeout: Seconds that the whole relaxation may take; None means no limit.

        Raises:
            ModelChangedError: The service has other weights than the relaxation began with.
            ServiceError: The relaxation failed.
            ValueError: The timeout is not a positive number.
        """
        timeout = time_limit("timeout", timeout)
        flow = relaxation(
            self._conversation,
            system,
            model,
            allow_model_change,
            force_kind=force_kind,
            fmax=fmax,
            max_steps=max_steps,
            interval=interval,
            fixed_atoms=fixed_atoms,
        )
        return self._follow(self._execute(flow), timeout)

    def models(self) -> list[ModelInfo]:
        """Return the description of every served model."""
        return self._execute(self._conversation.models())

    def model(self, name: str | None = None) -> ModelInfo:
        """Return the description of one model.

        Raises:
            UnknownModelError: No model of this name is served.
        """
        return self._execute(self._conversation.model(name))

    def with_timeout(self, timeout: float | None) -> "Client":
        """Return a new client of the same service with another time limit of a request.

        Raises:
            ValueError: The time limit is not a positive number.
        """
        other = Client.__new__(Client)
        other.__setstate__((self._url, replace(self._options, timeout=timeout)))
        return other

    def close(self) -> None:
        """Close the connections and their streams; those of another process stay open."""
        self._is_closed = True
        self._connections.get().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __getstate__(self) -> tuple[Address | AddressFile, Options]:
        return self._url, self._options

    def __setstate__(self, state: tuple[Address | AddressFile, Options]) -> None:
        self._url, self._options = state
        self._start()

    def _start(self) -> None:
        self._conversation = Conversation(self._options)
        self._is_closed = False
        connect = partial(_connect_all, self._url, self._options)
        self._connections = OfProcess(partial(Connections, connect))

    def _opened(self) -> Connections:
        if self._is_closed:
            raise RuntimeError(f"{self!r} is closed")
        return self._connections.get()

    def _wait(self, seconds: float) -> None:
        """Wait between two attempts, unless the client is closed meanwhile."""
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            time.sleep(min(left, LONGEST_SLEEP_S))
            self._opened()

    def _follow(self, run: Run[T], timeout: float | None) -> Generator[T, None, None]:
        resuming = ResumingRun(self._conversation, run, timeout)
        while not resuming.is_over:
            pid, connections = os.getpid(), self._opened()
            connection = connections.take()
            try:
                with closing(connection.receive(resuming.next_call())) as replies:
                    for reply in replies:
                        yield resuming.take(reply)
                        if os.getpid() != pid:
                            break  # the iterator was forked, and resumes with its own connection
                    else:
                        resuming.check_ended()
            except ServiceError as error:
                self._wait(resuming.pause_after(error))
            connections.put_back(connection)

    def _execute(self, flow: Flow[T]) -> T:
        connections = self._opened()
        connection = connections.take()
        try:
            result = _execute(flow, connection, self._wait)
        except ServiceError:
            connections.put_back(connection)
            raise
        connections.put_back(connection)
        return result


class Stream:
    """The stream of one walker, which sends only what changed since its last system.

    That is the positions and, if it changed, the cell. The whole system is sent if the atoms,
    `pbc`, charge or spin changed, after an error, and after the connection was lost. Threads that
    share a stream take turns.
    """

    def __init__(self, client: Client, model: str | None, outputs: str | Sequence[str]) -> None:
        self._client = client
        self._model = model
        self._outputs = parse_outputs(outputs)
        self._turns = OfProcess(_Turns)
        close_before_forks(self)

    def predict(self, system: SystemLike, outputs: str | Sequence[str] | None = None) -> Prediction:
        """Evaluate the next system.

        Args:
            system: The next system; it is sent efficiently if its atoms are those of the last one.
            outputs: Quantities to compute for this system; None means those of the stream.

        Raises:
            ServiceError: The request failed; the stream remains usable.
        """
        parsed_outputs = self._outputs if outputs is None else parse_outputs(outputs)
        turns = self._turns.get()
        connections = self._client._opened()
        with turns.lock:
            n_closed = turns.n_closed
            (encoder, transport), turns.walker = turns.walker or self._open(connections), None
            flow = self._client._conversation.step(encoder, system, parsed_outputs)
            prediction = _execute(flow, transport, self._client._wait)
            # An exception, whatever it interrupted, leaves a walker that is not used again.
            if turns.n_closed == n_closed:
                turns.walker = encoder, transport
            else:
                transport.close()
            return prediction

    def close(self) -> None:
        """End the stream; a later `predict` starts a new one."""
        turns = self._turns.get()
        turns.n_closed += 1
        walker, turns.walker = turns.walker, None
        if walker is not None:
            walker[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, connections: Connections) -> "_Walker":
        model = self._client._execute(self._client._conversation.resolve_model(self._model))
        encoder = StreamEncoder(model, self._client._options.reply_dtype)
        return encoder, connections.shared().stream()


_Walker = tuple[StreamEncoder, Transport]


class _Turns:
    """The state of a stream in one process, and the lock of the thread whose turn it is.

    Closing takes no lock, because a signal handler may close a stream during a turn; the turn
    then ends it. For the same reason the lock is reentrant.
    """

    def __init__(self) -> None:
        self.lock = RLock()
        self.n_closed = 0
        self.walker: _Walker | None = None


def _connect_all(address: Address | AddressFile, options: Options) -> Connection:
    if isinstance(address, AddressFile):
        return FollowingConnection(address, partial(_connect_servers, options))
    return _connect_servers(options, tuple(Server(url, options.access) for url in address.urls))


def _connect_servers(options: Options, servers: tuple[Server, ...]) -> Connection:
    access_of = {server.url: server.access for server in servers}

    def connect(url: Url) -> Connection:
        # A name that stands for several addresses leads to URLs of its own.
        return _connect(url, options, access_of.get(url, servers[0].access))

    address = Address(tuple(access_of))
    return (
        connect(address.urls[0]) if address.is_one else ReplicatedConnection(address.urls, connect)
    )


def _connect(url: Url, options: Options, access: Access) -> Connection:
    if url.transport == "grpc":
        return GrpcTransport(url, options.urgency, access)
    return RestTransport(url, options.encoding, options.urgency, access)


def _execute(flow: Flow[T], transport: Transport, wait: Callable[[float], None]) -> T:
    """Execute a flow with blocking I/O and return its result."""
    try:
        step = next(flow)
        while True:
            try:
                reply = _perform(step, transport, wait)
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        return cast(T, end.value)


def _perform(
    step: Call | Pause, transport: Transport, wait: Callable[[float], None]
) -> Message | None:
    if isinstance(step, Pause):
        wait(step.seconds)
        return None
    return transport.send(step)
