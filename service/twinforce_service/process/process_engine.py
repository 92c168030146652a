"""An engine in another process, as the API process sees it.

The queue of the device is in the engine process; this process knows only the requests and runs that
it has sent and that are not over. When the engine process exits, they end with `UnavailableError`,
and a new process is started.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from threading import Thread
from typing import Any

from twinforce_proto import (
    FatalSystemError,
    ModelLoadError,
    ServiceError,
    UnavailableError,
)
from twinforce_service.context import trace_id_of
from twinforce_service.engine.lifecycle import Lifecycle, not_finished
from twinforce_service.engine.report import BatchReport, guarded
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.environments.environment import THIS_ENVIRONMENT, Environment
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.channel_reader import ChannelReader
from twinforce_service.process.child import ChildProcess
from twinforce_service.process.messages import Kind, Message
from twinforce_service.process.pending import Pending
from twinforce_service.process.pulse import Beat
from twinforce_service.process.replies import Replies
from twinforce_service.process.request_sender import RequestSender
from twinforce_service.process.restarts import Culprit, Restarts
from twinforce_service.process.run_messages import run_to_frames
from twinforce_service.process.suspects import Suspects
from twinforce_service.process.turns import TurnOf
from twinforce_service.process.watchdog import Watchdog
from twinforce_service.scheduling.places import Placed
from twinforce_service.scheduling.request import Request, check_sizes, overloaded
from twinforce_service.version import provenance_of

logger = logging.getLogger(__name__)

_REFUSAL = "engines exited again and again while they evaluated one system: it is refused now"


class ProcessEngine(Lifecycle):
    """An `Engine` whose device belongs to another process; safe to call in any thread.

    Args:
        spec: Specification of the engine in that process.
        on_batch: Called with the report of each batch after its requests were completed.
        on_restart: Called with the device at each restart, in a thread of this engine.
        clock: Returns the time, in s.
        loop: Event loop that completes the requests, so that no thread is woken in between; None
            completes them in a thread of this engine.
        environment: Environment of Python that the process runs in.
        turn: Place of the engine among those that share its device, if there are others.
        suspects: Suspects of crashes, which engines share; None for those of this engine alone.
    """

    def __init__(
        self,
        spec: EngineSpec,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_restart: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
        environment: Environment = THIS_ENVIRONMENT,
        turn: TurnOf | None = None,
        suspects: Suspects | None = None,
    ) -> None:
        super().__init__(spec.limits.max_pairs_per_system)
        self._spec = spec
        self._environment = environment
        self._turn = turn
        self._suspects = Suspects(clock) if suspects is None else suspects
        self._loop = loop
        self._report_batch = guarded(on_batch)
        self._on_restart = on_restart
        self._restarts = Restarts(clock)
        self._clock = clock
        self._watchdog = self._new_watchdog()
        # Requests and runs that were on the device when the last child exited.
        self._crashed: list[Request[Any] | Run] = []
        # False if the system did not let the last child start.
        self._has_started_child = False
        # Seconds for which the present child has not responded; 0 unless it hangs.
        self._hung_for = 0.0
        # True if the present child does not end although it was killed.
        self._is_abandoned = False
        self._child: ChildProcess | None = None
        self._sender: RequestSender | None = None
        self._pending = Pending()
        self._replies = Replies(
            self._pending, self._suspects, self._note_batch, lambda: self.n_waiting_atoms
        )
        # Numbers of requests and atoms sent to the present child.
        self._n_sent = self._n_sent_atoms = 0
        self._has_cancelled = False
        # Reason for the exit of the present child, if the child sent one.
        self._exit: ServiceError | None = None
        self._thread = Thread(target=self._run, name=f"engine {spec.device}", daemon=True)

    def start(self) -> None:
        """Start the process; it loads the models and warms them up."""
        self._thread.start()

    @property
    def device(self) -> str:
        """Device of the models; the name in the specification until they are loaded."""
        return next((info.device for info in self._models.values()), self._spec.device)

    @property
    def _label(self) -> str:
        """Device and environment, for messages."""
        return self._environment.label(self.device)

    @property
    def pid(self) -> int | None:
        """Id of the process, or None between two processes."""
        child = self._child
        return None if child is None else child.pid

    @property
    def n_waiting(self) -> int:
        """Number of requests that wait for the device."""
        return self._waiting()[0]

    @property
    def n_waiting_atoms(self) -> int:
        """Number of atoms of the requests that wait for the device."""
        return self._waiting()[1]

    @property
    def n_pending_atoms(self) -> int:
        """Number of atoms that wait for the device or are on it."""
        return self._pending.n_atoms

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        admission = self._admitting()
        check_sizes(requests, self._spec.limits)
        admission.admit(requests)
        if self._suspects:
            self._set_apart(requests)
        numbered = [(self._pending.next_number(), request) for request in requests]
        with self._changed:
            sender = self._sender_with_room(requests)
            self._n_sent += len(requests)
            self._n_sent_atoms += self._pending.add(numbered)
            sender.submit(numbered)
        for number, request in numbered:
            request.future.add_done_callback(partial(self._withdraw, number))

    def start_run(self, run: Run) -> Credit:
        """Accept a run, or raise a `ServiceError`; return the function that adds credit."""
        if self._suspects:
            run.is_suspect = self._suspects.is_suspect(run)
        number = self._pending.next_number()
        frames = run_to_frames(number, run)
        with self._changed:
            sender = self._sender_with_room([run])
            self._pending.add([(number, run)])
            sender.send(frames)
        run.future.add_done_callback(partial(self._withdraw, number))
        return partial(self._add_credit, number)

    def stop(self, timeout: float | None = None) -> None:
        """Accept no more requests, finish the accepted ones, and stop."""
        with self._changed:
            self._close()
            if self._sender is not None and self._is_open:
                self._sender.send(messages.plain(Kind.STOP))
            elif self._child is not None:  # it has nothing to finish
                self._child.kill()
        self._pending.fail_all(self._refusal(), Run)
        if self._thread.ident is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            error = not_finished()
            self._pending.fail_all(error)
            with self._changed:
                if self._child is not None:
                    self._child.kill()
                    self._is_abandoned = True
            self._thread.join()

    def _not_open(self) -> ServiceError:
        if self._admission is None:
            return super()._not_open()
        return self._restarts.refusal(self._label)

    def _set_apart(self, requests: Sequence[Request[Any]]) -> None:
        """Mark the requests that have to be evaluated alone, or raise `FatalSystemError`."""
        for request in requests:
            try:
                request.is_suspect = self._suspects.is_suspect(request)
            except FatalSystemError as error:
                raise error.at(request.system_index) from None

    def _waiting(self) -> tuple[int, int]:
        """Return the numbers of requests and of atoms that wait for the device."""
        child = self._child
        if child is None:
            return 0, 0
        n_requests, n_atoms = child.counters.get()
        return self._n_sent - n_requests, self._n_sent_atoms - n_atoms

    def _sender_with_room(self, requests: Sequence[Placed]) -> RequestSender:
        """Return the sender to the child if there is one that can take the requests.

        Raises:
            UnavailableError: No child is ready.
            OverloadedError: Too many requests are waiting already.
        """
        sender = self._sender
        if sender is None or not self.is_ready:
            raise self._refusal()
        n_requests, n_atoms = self._waiting()
        if self._pending.may_enter(requests, n_requests, n_atoms, self._spec.limits):
            return sender
        if self._has_cancelled:  # make room until the client tries again
            self._has_cancelled = False
            sender.send(messages.plain(Kind.DROP_CANCELLED))
        raise overloaded(n_requests, n_atoms, self._pace.retry_after(n_atoms))

    def _add_credit(self, number: int, n_more: int) -> None:
        """Let a run send more updates, unless it is over."""
        with self._changed:
            if self._sender is not None and self._pending.get(number) is not None:
                self._sender.send(messages.plain(Kind.CREDIT, number, n_more))

    def _withdraw(self, number: int, _: object) -> None:
        """Tell the child that a request or a run was canceled."""
        if self._pending.pop(number) is None:  # it was completed, not canceled
            return
        with self._changed:
            self._has_cancelled = True
            if self._sender is not None:
                self._sender.send(messages.plain(Kind.CANCEL, number))

    def _run(self) -> None:
        """Keep a child running until `stop`; leave no future and no process behind."""
        try:
            while not self._is_closed:
                failure = self._run_child()
                if not self._is_closed:
                    self._handle_exit(failure)
        except BaseException as error:
            logger.critical("the engine on %s failed", self._label, exc_info=error)
            text = f"the engine on {self._label} failed: {type(error).__name__}: {error}"
            self._close(UnavailableError(text))
        finally:
            self._close()
            self._pending.fail_all(self._refusal())

    def _run_child(self) -> ServiceError:
        """Start a child, handle its messages until it exits, and return why it exited."""
        try:
            child = ChildProcess(self._spec, self._environment, self._turn)
        except OSError as error:  # such as too many open files, or a full disk
            self._crashed, self._hung_for, self._has_started_child = [], 0.0, False
            return UnavailableError(f"no process can be started: {error}")
        self._exit = None
        self._hung_for, self._is_abandoned, self._has_started_child = 0.0, False, True
        self._watchdog = self._new_watchdog()
        self._restarts.note_start()
        try:
            with self._changed:
                self._child, self._sender = child, RequestSender(child.channel, self._loop)
                self._n_sent = self._n_sent_atoms = 0
                if self._is_closed:
                    child.kill()
            receive, is_over = partial(self._receive, child.channel), partial(self._is_over, child)
            ChannelReader(child.channel, receive, self._loop, is_over).run()
        finally:
            with self._changed:
                self._child = self._sender = None
                self._is_open = False
            ending = child.end()
            self._crashed = self._pending.among(child.pulse.batch())
        return self._exit or UnavailableError(ending)

    def _new_watchdog(self) -> Watchdog:
        return Watchdog(self._spec.watchdog, self._clock)

    def _is_over(self, child: ChildProcess) -> bool:
        """Kill the child if it hangs, and return True if nothing more is expected of it."""
        if self._is_abandoned:
            return True
        beat = child.pulse.read() if self._is_open else Beat(-1, self._restarts.longest_start)
        if not self._watchdog.is_hung(beat):
            return False
        self._hung_for = self._watchdog.age
        self._exit = UnavailableError(f"it did not respond for {self._hung_for:.0f} s")
        logger.error("the engine on %s hangs and is killed: %s", self._label, self._exit)
        with self._changed:
            self._is_open = False
        child.kill()
        return True

    def _receive(self, channel: Channel) -> bool:
        """Handle the messages that have arrived; return True if the child exits."""
        try:
            received = channel.receive()
        except EOFError:
            return True
        for frames in received:
            self._exit = self._exit or self._handle(messages.read(frames))
        return self._exit is not None

    def _handle(self, message: Message) -> ServiceError | None:
        """Handle a message; return the reason if the child exits."""
        match message.kind:
            case Kind.READY:
                return self._become_ready(message)
            case Kind.STOPPED:
                return UnavailableError("it was stopped")
            case Kind.FAILED:
                return ServiceError.from_dict(message.head[0])
            case _:
                self._replies.handle(message)
        return None

    def _note_batch(self, report: BatchReport) -> None:
        self._pace.note(report)
        if self._loop is None or self._loop.is_closed():
            self._report_batch(report)
        else:  # after the loop has woken the clients
            self._loop.call_soon(self._report_batch, report)

    def _become_ready(self, message: Message) -> ServiceError | None:
        """Accept requests, unless the process speaks another protocol."""
        if (reason := messages.refusal_of_models(message)) is not None:
            return ModelLoadError(reason)
        infos = [self._environment.mark(info) for info in messages.models_from_message(message)]
        with self._changed:
            self._replies.provenances = {info.name: provenance_of(info) for info in infos}
            self._restarts.note_ready()
            self._open(infos)
        return None

    def _culprit(self) -> Culprit:
        """Return the reason of the last exit, and note what was on the device then."""
        if not self._has_started_child:
            return Culprit.MACHINE
        if self._crashed and self._suspects.note_crash(self._crashed):
            logger.error(_REFUSAL, extra=_fields_of(self._crashed[0]))
            return Culprit.REQUEST
        return Culprit.ENGINE

    def _handle_exit(self, failure: ServiceError) -> None:
        """End all requests of a child that has exited, and wait until the next start is due."""
        if self._admission is None:
            self._close(self._environment.start_failure(failure, self.device))
            return
        self._restarts.note_exit(str(failure), self._hung_for, self._culprit())
        refusal = self._restarts.refusal(self._label)
        logger.error("%s", refusal)
        if self._restarts.is_exhausted:
            self._close(UnavailableError(f"the engine on {self._label} failed too often"))
        self._pending.fail_all(refusal)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, self._restarts.pause)
        if not self._is_closed and self._on_restart is not None:
            self._on_restart(self.device)


def _fields_of(entry: Request[Any] | Run) -> dict[str, object]:
    trace_id = trace_id_of(entry.trace)
    return {"n_atoms": entry.n_atoms, "request_id": entry.request_id, "trace_id": trace_id}
