"""The process that owns one device: an engine, and what it is told and says over a channel.

It is started by `Child`, lives as long as its parent, and holds nothing that the parent needs.
"""

import gc
import logging
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinforce_proto import ModelLoadError, ServiceError, UnavailableError
from twinforce_service import logs
from twinforce_service.engine.report import BatchReport
from twinforce_service.engine.runs import Credit, Run, Update
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel, Frame
from twinforce_service.process.child import Counters
from twinforce_service.process.mailbox import Mailbox
from twinforce_service.process.messages import Kind, Message
from twinforce_service.process.run_messages import run_from_message, update_to_frames
from twinforce_service.scheduling.request import Request

if TYPE_CHECKING:  # loads torch, which takes its time and may fail
    from twinforce_service.engine.thread_engine import ThreadEngine

logger = logging.getLogger(__name__)

_STANDARD_INPUT = 0
# No limit: what may wait is decided by the parent.
_NO_LIMIT = sys.maxsize
# How long reports of batches may be kept back that were for walkers of this process alone, in s.
_REPORTS_INTERVAL = 0.1


class Outbox:
    """Answers on their way to the parent: those of a batch leave together, with its report.

    Reports of batches that were for walkers of this process alone leave now and then, and all of
    them when a journey ends.

    That the engine ends is no answer: the parent sees it, and ends what is left in its own words.

    Args:
        send: Sends a message.
    """

    def __init__(self, send: Callable[[Sequence[Frame]], None]) -> None:
        self._send = send
        self._done: list[tuple[int, Any]] = []
        self._runs: set[int] = set()
        self._reports: deque[BatchReport] = deque()
        self._reported_at = 0.0

    def follow(self, number: int, run: Run) -> None:
        """Take the error that this journey may end with."""
        self._runs.add(number)
        run.future.add_done_callback(partial(self._note_end, number))

    def refuse(self, number: int, error: ServiceError) -> None:
        """Send the error that a journey ends with before it has begun."""
        self._send(messages.errors_to_frames([(number, error)]))

    def tell(self, number: int, update: Update, is_last: bool) -> None:
        """Send a milestone of a journey."""
        self._send(update_to_frames(number, update, is_last=is_last))

    def send_batch(self, report: BatchReport) -> None:
        """Send the answers since the last batch, and the report of this one."""
        done, self._done = self._done, []
        if done or not self._runs:
            self._send(messages.answers_to_frames(done, report))
            return
        self._reports.append(report)
        if time.monotonic() - self._reported_at > _REPORTS_INTERVAL:
            self._send_reports()

    def _send_reports(self) -> None:
        self._reported_at = time.monotonic()
        reports = []
        with suppress(IndexError):  # where another thread has just taken the last one
            while self._reports:
                reports.append(self._reports.popleft())
        if reports:
            self._send(messages.reports_to_frames(reports))

    def _note_end(self, number: int, future: Future[None]) -> None:
        self._runs.discard(number)
        self._send_reports()
        if future.cancelled() or (error := future.exception()) is None:
            return
        if isinstance(error, ServiceError) and not isinstance(error, UnavailableError):
            self._send(messages.errors_to_frames([(number, error)]))

    def note(self, number: int, future: "Future[Any]") -> None:
        """Take what a request has ended with, unless it was cancelled."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._done.append((number, future.result()))
        elif isinstance(error, ServiceError) and not isinstance(error, UnavailableError):
            self.refuse(number, error)


class Inbox:
    """What the parent says.

    Args:
        engine: Does it.
        outbox: Where answers go.
    """

    def __init__(self, engine: "ThreadEngine", outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._waiting: dict[int, Request[Any]] = {}
        self._runs: dict[int, Run] = {}
        self._credits: dict[int, Credit] = {}

    def take(self, message: Message) -> None:
        """Do what a message says."""
        match message.kind:
            case Kind.REQUESTS:
                self._accept(messages.requests_from_message(message))
            case Kind.RUN:
                self._start_run(message)
            case Kind.CREDIT:
                self._add_credit(*message.head)
            case Kind.CANCEL:
                self._cancel(message.head)
            case Kind.DROP_CANCELLED:
                self._engine.drop_cancelled()
            case Kind.STOP:
                self._engine.stop()

    def _accept(self, requests: Sequence[tuple[int, Request[Any]]]) -> None:
        for number, request in requests:
            self._waiting[number] = request
            request.future.add_done_callback(partial(self._forget, number))
        try:
            self._engine.accept([request for _, request in requests])
        except ServiceError as error:
            for _, request in requests:
                request.fail(error)

    def _start_run(self, message: Message) -> None:
        try:
            number, run = run_from_message(message, self._outbox.tell)
        except ServiceError as error:
            self._outbox.refuse(message.head[0], error)
            return
        self._runs[number] = run
        self._outbox.follow(number, run)
        try:
            self._credits[number] = self._engine.start_run(run)
        except ServiceError as error:
            run.fail(error)
        run.future.add_done_callback(partial(self._forget_run, number))

    def _add_credit(self, number: int, n_more: int) -> None:
        if (add_credit := self._credits.get(number)) is not None:
            add_credit(n_more)

    def _cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            pending = self._waiting.get(number) or self._runs.get(number)
            if pending is not None:
                pending.future.cancel()

    def _forget(self, number: int, future: "Future[Any]") -> None:
        self._waiting.pop(number, None)
        self._outbox.note(number, future)

    def _forget_run(self, number: int, _: object) -> None:
        self._runs.pop(number, None)
        self._credits.pop(number, None)


def main() -> None:
    """Be the process of an engine, as `Child` starts it."""
    directory, connected = Path(sys.argv[1]), socket.socket(fileno=_lowered(int(sys.argv[2])))
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent says when to stop
        signal.signal(number, signal.SIG_IGN)
    spec = EngineSpec.from_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, args=[directory], daemon=True).start()
    logs.configure(spec.log_level, spec.log_format)
    link = Channel(connected)
    counters = Counters(directory)
    link.send(_final_message(partial(_run, spec, link, counters)))
    while not link.flush():
        select.select([], [link], [])
    threading.Event().wait()  # until the parent has read them


def _run(spec: EngineSpec, link: Channel, counters: Counters) -> ServiceError | None:
    """Load, answer until told to stop, and return what went wrong."""
    # Imported here, so that what is missing on this machine is reported like a missing model.
    from twinforce_service.engine.loading import load_models
    from twinforce_service.engine.thread_engine import ThreadEngine

    outbox = Outbox(link.send)
    limits = replace(spec.limits, max_waiting=_NO_LIMIT, max_waiting_atoms=_NO_LIMIT)
    post = Mailbox(link)
    engine = ThreadEngine(
        partial(load_models, spec),
        limits,
        on_batch=outbox.send_batch,
        on_take=counters.set,
        wakeup=post,
    )
    post.deliver_to(Inbox(engine, outbox).take)
    engine.run(on_ready=partial(_say_ready, engine, link))
    return engine.failure


def _say_ready(engine: "ThreadEngine", link: Channel) -> None:
    gc.collect()
    gc.freeze()  # what is there now stays, so that no batch waits while it is searched for garbage
    link.send(messages.models_to_frames(engine.models.values()))


def _final_message(run: Callable[[], ServiceError | None]) -> list[Frame]:
    """Return the message that says how it ended."""
    try:
        failure = run()
    except Exception as error:
        failure = ModelLoadError(f"{type(error).__name__}: {error}")
    if failure is None:
        return messages.plain(Kind.STOPPED)
    return messages.plain(Kind.FAILED, failure.to_dict())


def _lowered(descriptor: int) -> int:
    """Return the lowest descriptor for the same file, which no other process inherits.

    Its number is that of a service that may have thousands open, too many for `select`.
    """
    low = os.dup(descriptor)
    os.close(descriptor)
    return low


def _end_with_parent(directory: Path) -> None:
    """End this process as soon as the parent has ended, or closes the pipe."""
    while os.read(_STANDARD_INPUT, 1):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
