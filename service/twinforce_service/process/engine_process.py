"""The process that owns one device: an engine, and its messages over a channel.

`ChildProcess` starts it. It exits with its parent, and holds no state that the parent needs.
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

from twinforce_proto import ModelLoadError, PredictionError, ServiceError, UnavailableError
from twinforce_service import logs
from twinforce_service.engine.report import BatchReport
from twinforce_service.engine.runs import Credit, Run, Update
from twinforce_service.engine.spec import EngineSpec
from twinforce_service.process import messages
from twinforce_service.process.channel import Channel, Frame
from twinforce_service.process.child import Counters
from twinforce_service.process.mailbox import Mailbox
from twinforce_service.process.messages import Kind, Message
from twinforce_service.process.pulse import SharedPulse
from twinforce_service.process.request_messages import requests_from_message
from twinforce_service.process.run_messages import run_from_message, update_to_frames
from twinforce_service.process.turns import SharedDevice
from twinforce_service.scheduling.request import Request

if TYPE_CHECKING:  # loads torch, which takes time and may fail
    from twinforce_service.engine.thread_engine import ThreadEngine

logger = logging.getLogger(__name__)

_STANDARD_INPUT = 0
# The parent decides how much may wait.
_NO_LIMIT = sys.maxsize
# Seconds for which reports of batches without answers for the parent may be kept back.
_REPORTS_INTERVAL = 0.1


class Outbox:
    """The messages to the parent; the answers of a batch are sent together with its report.

    Reports of batches without answers, which evaluated runs only, are sent now and then, and when
    a run ends.

    `UnavailableError` is never sent: the parent notices the end of the engine, and ends the
    remaining requests and runs itself.

    Args:
        send: Sends a message.
    """

    def __init__(self, send: Callable[[Sequence[Frame]], None]) -> None:
        self._send = send
        self._answers: list[tuple[int, Any]] = []
        self._runs: set[int] = set()
        self._reports: deque[BatchReport] = deque()
        self._reported_at = 0.0

    def keep_answer(self, number: int, future: "Future[Any]") -> None:
        """Keep the answer of a request for its batch, or send its error."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._answers.append((number, future.result()))
        else:
            self._send_failure(number, error)

    def send_batch(self, report: BatchReport) -> None:
        """Send the answers since the last batch, and the report of this batch.

        If they cannot be sent, which is an error in this program, their requests fail.
        """
        answers, self._answers = self._answers, []
        if answers or not self._runs:
            try:
                self._send(messages.answers_to_frames(answers, report))
            except Exception as error:
                logger.exception("the answers of a batch cannot be sent")
                failure = PredictionError(
                    f"the answer cannot be sent to the service: {type(error).__name__}: {error}"
                )
                failures = [(number, failure) for number, _ in answers]
                self._send(messages.errors_to_frames(failures))
            return
        self._reports.append(report)
        if time.monotonic() - self._reported_at > _REPORTS_INTERVAL:
            self._send_reports()

    def add_run(self, number: int, run: Run) -> None:
        """Send the error of this run if it fails."""
        self._runs.add(number)
        run.future.add_done_callback(partial(self._end_run, number))

    def send_update(self, number: int, update: Update, is_last: bool) -> None:
        """Send an update of a run."""
        self._send(update_to_frames(number, update, is_last=is_last))

    def send_error(self, number: int, error: ServiceError) -> None:
        """Send the error of a request or a run."""
        self._send(messages.errors_to_frames([(number, error)]))

    def _end_run(self, number: int, future: "Future[None]") -> None:
        self._runs.discard(number)
        self._send_reports()
        if not future.cancelled() and (error := future.exception()) is not None:
            self._send_failure(number, error)

    def _send_failure(self, number: int, error: BaseException) -> None:
        if isinstance(error, ServiceError) and not isinstance(error, UnavailableError):
            self.send_error(number, error)

    def _send_reports(self) -> None:
        self._reported_at = time.monotonic()
        reports = []
        with suppress(IndexError):  # another thread may take the last report
            while self._reports:
                reports.append(self._reports.popleft())
        if reports:
            self._send(messages.reports_to_frames(reports))


class Inbox:
    """A handler of the messages of the parent.

    Args:
        engine: Engine of this process.
        outbox: Sends answers.
    """

    def __init__(self, engine: "ThreadEngine", outbox: Outbox) -> None:
        self._engine = engine
        self._outbox = outbox
        self._requests: dict[int, Request[Any]] = {}
        self._runs: dict[int, Run] = {}
        self._credits: dict[int, Credit] = {}

    def handle(self, message: Message) -> None:
        """Handle a message."""
        match message.kind:
            case Kind.REQUESTS:
                self._accept(requests_from_message(message))
            case Kind.PROPAGATE | Kind.RELAX:
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
            self._requests[number] = request
            request.future.add_done_callback(partial(self._end_request, number))
        try:
            self._engine.accept([request for _, request in requests])
        except ServiceError as error:
            for _, request in requests:
                request.fail(error)

    def _start_run(self, message: Message) -> None:
        try:
            number, run = run_from_message(message, self._outbox.send_update)
        except ServiceError as error:
            self._outbox.send_error(message.head[0], error)
            return
        self._runs[number] = run
        self._outbox.add_run(number, run)
        try:
            self._credits[number] = self._engine.start_run(run)
        except ServiceError as error:
            run.fail(error)
        run.future.add_done_callback(partial(self._end_run, number))

    def _add_credit(self, number: int, n_more: int) -> None:
        if (add_credit := self._credits.get(number)) is not None:
            add_credit(n_more)

    def _cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            pending = self._requests.get(number) or self._runs.get(number)
            if pending is not None:
                pending.future.cancel()

    def _end_request(self, number: int, future: "Future[Any]") -> None:
        self._requests.pop(number, None)
        self._outbox.keep_answer(number, future)

    def _end_run(self, number: int, _: object) -> None:
        self._runs.pop(number, None)
        self._credits.pop(number, None)


def main() -> None:
    """Run the process of an engine, as `ChildProcess` starts it."""
    directory = Path(sys.argv[1])
    connected = socket.socket(fileno=_move_to_lowest(int(sys.argv[2])))
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGUSR1,
    ):  # the parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    spec = EngineSpec.from_json(sys.stdin.readline())
    counters, pulse = Counters(directory), SharedPulse(directory)
    threading.Thread(target=_exit_with_parent, args=[directory], daemon=True).start()
    logs.configure(spec.log_level, spec.log_format)
    channel = Channel(connected)
    turn = SharedDevice(int(sys.argv[3]), int(sys.argv[4])) if sys.argv[3:] else None
    channel.send(_final_message(partial(_run, spec, channel, counters, pulse, turn)))
    while not channel.flush():
        select.select([], [channel], [])
    threading.Event().wait()  # the process exits when the parent has read the last message


def _run(
    spec: EngineSpec,
    channel: Channel,
    counters: Counters,
    pulse: SharedPulse,
    turn: SharedDevice | None,
) -> ServiceError | None:
    """Load the models, answer requests until `stop`, and return the failure, if any."""
    # Imported here, so that a missing library is reported like a missing model.
    from twinforce_service.engine.loading import load_models
    from twinforce_service.engine.thread_engine import ThreadEngine

    outbox = Outbox(channel.send)
    limits = replace(spec.limits, max_waiting=_NO_LIMIT, max_waiting_atoms=_NO_LIMIT)
    mailbox = Mailbox(channel, pulse)
    engine = ThreadEngine(
        partial(load_models, spec),
        limits,
        on_batch=outbox.send_batch,
        on_take=counters.set,
        wakeup=mailbox,
        turn=turn,
        memory_share=spec.memory_share,
        pulse=pulse,
        watchdog=spec.watchdog,
    )
    mailbox.start(Inbox(engine, outbox).handle)
    engine.run(on_ready=partial(_send_ready, engine, channel))
    return engine.failure


def _send_ready(engine: "ThreadEngine", channel: Channel) -> None:
    gc.collect()
    gc.freeze()  # the objects that exist now stay, so garbage collection need not visit them
    channel.send(messages.models_to_frames(engine.models.values()))


def _final_message(run: Callable[[], ServiceError | None]) -> list[Frame]:
    """Run the engine, and return the message that says how it ended."""
    try:
        failure = run()
    except Exception as error:
        failure = ModelLoadError(f"{type(error).__name__}: {error}")
    if failure is None:
        return messages.plain(Kind.STOPPED)
    return messages.plain(Kind.FAILED, failure.to_dict())


def _move_to_lowest(descriptor: int) -> int:
    """Move a file to the lowest free descriptor, which child processes do not inherit.

    The given number comes from a service that may have thousands of files open; it may be too high
    for `select`.
    """
    low = os.dup(descriptor)
    os.close(descriptor)
    return low


def _exit_with_parent(directory: Path) -> None:
    """Exit as soon as the parent exits or closes the pipe, or nothing can be known of it."""
    with suppress(OSError):
        while os.read(_STANDARD_INPUT, 1):
            pass
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    main()
