"""An engine in a process of its own, seen from the process of the API.

What waits for the device waits there; here it is only known what was sent and not answered yet.
When the process dies, all of that ends with `UnavailableError`, and a new process is started.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import count
from threading import Condition, Thread
from typing import Any

from twinforce_proto import ModelInfo, ModelLoadError, Provenance, ServiceError, UnavailableError
from twinforce_service.engine.report import BatchReport, Pace
from twinforce_service.engine.runs import Credit, Run
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel
from twinforce_service.process.child import Child
from twinforce_service.process.link import ChannelReader, RequestSender
from twinforce_service.process.messages import Kind, Message
from twinforce_service.process.restarts import Restarts
from twinforce_service.process.run_messages import run_to_frames, update_from_message
from twinforce_service.scheduling.admission import Admission
from twinforce_service.scheduling.request import Request, Sized, check_sizes, has_room, overloaded
from twinforce_service.version import provenance_of

logger = logging.getLogger(__name__)


class ProcessEngine:
    """An `Engine` whose device belongs to another process; safe to call from any thread.

    Args:
        spec: What the engine of that process is to be.
        on_batch: Told of each batch after its requests were completed.
        on_restart: Told of each restart, and of which device, in a thread of this engine.
        clock: In s.
        loop: Completes the requests, so that who waits in it is woken without a thread in between;
            None: a thread of this engine does.
    """

    def __init__(
        self,
        spec: EngineSpec,
        on_batch: Callable[[BatchReport], None] | None = None,
        on_restart: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._spec = spec
        self._loop = loop
        self._on_batch = on_batch
        self._on_restart = on_restart
        self._restarts = Restarts(clock)
        self._changed = Condition()
        self._child: Child | None = None
        self._sender: RequestSender | None = None
        self._admission: Admission | None = None
        self._models: Mapping[str, ModelInfo] = {}
        self._provenances: Mapping[str, Provenance] = {}
        self._is_ready = False
        self._is_closed = False
        self._failure: ServiceError | None = None
        self._pace = Pace()
        self._numbers = count()
        self._pending: dict[int, Request[Any] | Run] = {}
        self._n_pending_atoms = 0
        # To the present child.
        self._n_sent = self._n_sent_atoms = 0
        self._has_cancelled = False
        self._end: ServiceError | None = None
        self._thread = Thread(target=self._run, name=f"engine {spec.device}", daemon=True)

    def start(self) -> None:
        """Start the process; it loads the models and warms them up."""
        self._thread.start()

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return when requests are accepted.

        Raises:
            ModelLoadError: A model could not be loaded or evaluated.
            UnavailableError: It was stopped first, or `timeout` s have passed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready or self._is_closed, timeout)
            if not self.is_ready:
                raise self._refusal()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """What each served model declares, under its name; empty while they are first loaded."""
        return self._models

    @property
    def is_ready(self) -> bool:
        """Whether requests are accepted."""
        return self._is_ready and not self._is_closed

    @property
    def is_alive(self) -> bool:
        """Whether it may become ready, is, or was until it was told to stop."""
        return self._failure is None

    @property
    def device(self) -> str:
        """What its models compute on; what was asked for while they are first loaded."""
        return next((info.device for info in self._models.values()), self._spec.device)

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        child = self._child
        return None if child is None else child.pid

    @property
    def n_waiting(self) -> int:
        """How many requests wait for the device."""
        return self._waiting()[0]

    @property
    def n_waiting_atoms(self) -> int:
        """How many atoms they have."""
        return self._waiting()[1]

    @property
    def n_pending_atoms(self) -> int:
        """How many atoms wait for the device or are on it."""
        return self._n_pending_atoms

    def find(self, model: str) -> ModelInfo:
        """Return what a model declares, or raise `UnknownModelError` or `UnavailableError`."""
        return self._admitting().find(model)

    def submit(self, requests: Sequence[Request[Any]]) -> None:
        """Accept all of the requests, or raise a `ServiceError` and accept none."""
        admission = self._admitting()
        check_sizes(requests, self._spec.limits)
        admission.admit(requests)
        numbered = [(next(self._numbers), request) for request in requests]
        with self._changed:
            child, sender = self._child, self._sender
            if child is None or sender is None or not self.is_ready:
                raise self._refusal()
            self._check_room(sender, requests)
            n_atoms = sum(request.n_atoms for request in requests)
            self._pending.update(numbered)
            self._n_pending_atoms += n_atoms
            self._n_sent += len(requests)
            self._n_sent_atoms += n_atoms
            sender.submit(numbered)
        for number, request in numbered:
            request.future.add_done_callback(partial(self._withdraw, number))

    def start_run(self, run: Run) -> Credit:
        """Accept a journey, or raise a `ServiceError`; return what lets it tell more."""
        number = next(self._numbers)
        frames = run_to_frames(number, run)
        with self._changed:
            sender = self._sender
            if sender is None or not self.is_ready:
                raise self._refusal()
            self._check_room(sender, [run])
            self._pending[number] = run
            self._n_pending_atoms += run.n_atoms
            sender.say(frames)
        run.future.add_done_callback(partial(self._withdraw, number))
        return partial(self._add_credit, number)

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more, finish what was accepted, and stop."""
        with self._changed:
            self._is_closed = True
            if self._sender is not None and self._is_ready:
                self._sender.say(messages.plain(Kind.STOP))
            elif self._child is not None:  # it has nothing to finish
                self._child.kill()
            self._changed.notify_all()
        self._abandon(self._refusal(), Run)
        if self._thread.ident is None:
            return
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._abandon(UnavailableError("the service stopped before this was evaluated"))
            with self._changed:
                if self._child is not None:
                    self._child.kill()
            self._thread.join()

    def _admitting(self) -> Admission:
        if self._admission is None:
            raise self._refusal()
        return self._admission

    def _refusal(self) -> ServiceError:
        """Why no requests are accepted; a new error each time, as raising one changes it."""
        if self._failure is not None:
            return copy(self._failure)
        if self._is_closed:
            return UnavailableError("the service is shutting down", retry_after=1.0)
        if self._admission is None:
            text = "the service is starting: its models are loading"
            return UnavailableError(text, retry_after=1.0)
        return self._restarts.refusal(self.device)

    def _waiting(self) -> tuple[int, int]:
        """Return how many requests, and how many atoms, wait for the device."""
        child = self._child
        if child is None:
            return 0, 0
        n_requests, n_atoms = child.counters.get()
        return self._n_sent - n_requests, self._n_sent_atoms - n_atoms

    def _check_room(self, sender: RequestSender, requests: Sequence[Sized]) -> None:
        n_requests, n_atoms = self._waiting()
        if has_room(requests, n_requests, n_atoms, self._spec.limits):
            return
        if self._has_cancelled:  # so that there will be room when the caller comes back
            self._has_cancelled = False
            sender.say(messages.plain(Kind.DROP_CANCELLED))
        raise overloaded(n_requests, n_atoms, self._pace.retry_after(n_atoms))

    def _add_credit(self, number: int, n_more: int) -> None:
        """Let a journey tell so many more milestones, unless it is over."""
        with self._changed:
            if self._sender is not None and number in self._pending:
                self._sender.say(messages.plain(Kind.CREDIT, number, n_more))

    def _pop(self, number: int) -> Request[Any] | Run | None:
        with self._changed:
            pending = self._pending.pop(number, None)
            if pending is not None:
                self._n_pending_atoms -= pending.n_atoms
            return pending

    def _withdraw(self, number: int, _: object) -> None:
        """Let the child drop a request or a journey that has just been cancelled."""
        if self._pop(number) is None:  # it has been answered
            return
        with self._changed:
            self._has_cancelled = True
            if self._sender is not None:
                self._sender.say(messages.plain(Kind.CANCEL, number))

    def _abandon(self, error: ServiceError, which: type = object) -> None:
        """Complete with this error whatever was not answered, or what of that is of this type."""
        for number, pending in list(self._pending.items()):
            if isinstance(pending, which) and self._pop(number) is not None:
                pending.fail(error)

    def _run(self) -> None:
        """Keep a process alive until told to stop; leave no future and no process behind."""
        try:
            while not self._is_closed:
                failure = self._live()
                if not self._is_closed:
                    self._handle_exit(failure)
        except BaseException as error:
            logger.critical("the engine %s is lost", self.device, exc_info=error)
            self._give_up(UnavailableError(f"the engine is lost: {type(error).__name__}: {error}"))
        finally:
            self._is_closed = True
            self._abandon(self._refusal())

    def _live(self) -> ServiceError:
        """Start a process, attend to it until it has ended, and return why it did."""
        try:
            child = Child(self._spec)
        except OSError as error:
            return UnavailableError(f"no process can be started: {error}")
        self._end = None
        try:
            with self._changed:
                self._child, self._sender = child, RequestSender(child.channel, self._loop)
                self._n_sent = self._n_sent_atoms = 0
                if self._is_closed:
                    child.kill()
            ChannelReader(child.channel, partial(self._attend_all, child.channel), self._loop).run()
        finally:
            with self._changed:
                self._child = self._sender = None
                self._is_ready = False
            ending = child.end()
        return self._end or UnavailableError(f"its process ended: {ending}")

    def _attend_all(self, channel: Channel) -> bool:
        """Do what has come; return whether the process has ended, or is about to."""
        try:
            received = channel.receive()
        except EOFError:
            return True
        for frames in received:
            self._end = self._end or self._attend(messages.read(frames))
        return self._end is not None

    def _attend(self, message: Message) -> ServiceError | None:
        """Do what a message says; return why the engine has ended, if it has."""
        match message.kind:
            case Kind.ANSWERS:
                self._complete(message)
            case Kind.UPDATE:
                self._tell(message)
            case Kind.REPORTS:
                for report in messages.reports_from_message(message):
                    self._note(report)
            case Kind.ERRORS:
                for number, error in messages.errors_from_message(message):
                    if (pending := self._pop(number)) is not None:
                        pending.fail(error)
            case Kind.READY:
                self._become_ready(messages.models_from_message(message))
            case Kind.STOPPED:
                return UnavailableError("it was told to stop")
            case Kind.FAILED:
                return ServiceError.from_dict(message.head[0])
        return None

    def _complete(self, message: Message) -> None:
        answers, report = messages.answers_from_message(message, self._provenances)
        for number, answer in answers:
            if isinstance(request := self._pop(number), Request):
                request.complete(answer)
        self._note(report)

    def _tell(self, message: Message) -> None:
        number, update, is_last = update_from_message(message, self._provenances)
        run = self._pop(number) if is_last else self._pending.get(number)
        if isinstance(run, Run):
            run.tell(update, is_last=is_last)

    def _note(self, report: BatchReport) -> None:
        if not report.n_rows:
            self._pace.note(report)
        if self._loop is None or self._loop.is_closed():
            self._report(report)
        else:  # once those who waited were woken
            self._loop.call_soon(self._report, report)

    def _report(self, report: BatchReport) -> None:
        try:
            if self._on_batch is not None:
                self._on_batch(report)
        except Exception:
            logger.exception("a batch could not be reported")

    def _become_ready(self, infos: Sequence[ModelInfo]) -> None:
        with self._changed:
            self._models = {info.name: info for info in infos}
            self._provenances = {info.name: provenance_of(info) for info in infos}
            self._admission = Admission(self._models, self._spec.limits.max_pairs_per_system)
            self._restarts.note_ready()
            self._is_ready = True
            self._changed.notify_all()

    def _handle_exit(self, failure: ServiceError) -> None:
        """End what the dead process leaves behind, and wait until it is time for a new one."""
        if self._admission is None:
            self._give_up(_start_failure(failure, self.device))
            return
        self._restarts.note_exit(str(failure))
        refusal = self._restarts.refusal(self.device)
        logger.error("%s", refusal)
        if self._restarts.is_exhausted:
            self._give_up(UnavailableError(f"the engine on {self.device} died again and again"))
        self._abandon(refusal)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, self._restarts.pause)
        if not self._is_closed and self._on_restart is not None:
            self._on_restart(self.device)

    def _give_up(self, failure: ServiceError) -> None:
        with self._changed:
            self._failure = failure
            self._is_closed = True
            self._changed.notify_all()


def _start_failure(failure: ServiceError, device: str) -> ServiceError:
    if isinstance(failure, ModelLoadError):
        return failure
    return ModelLoadError(f"the engine on {device} did not start: {failure}")
