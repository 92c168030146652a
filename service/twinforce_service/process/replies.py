"""Complete requests and runs with what an engine process sends."""

from collections.abc import Callable, Mapping

from twinforce_proto import Provenance
from twinforce_service.engine.report import BatchReport
from twinforce_service.engine.runs import Run
from twinforce_service.process import messages
from twinforce_service.process.messages import Kind, Message
from twinforce_service.process.pending import Pending
from twinforce_service.process.run_messages import update_from_message
from twinforce_service.process.suspects import Suspects
from twinforce_service.scheduling.request import Request


class Replies:
    """The replies of an engine process, which complete what is pending and clear suspects.

    Args:
        pending: Requests and runs that were sent.
        suspects: Suspects of crashes.
        note_batch: Called with the report of each batch, after its requests were completed.
        n_waiting_atoms: Returns the number of atoms that wait for the device.

    Attributes:
        provenances: Provenance of the answers of each model.
    """

    def __init__(
        self,
        pending: Pending,
        suspects: Suspects,
        note_batch: Callable[[BatchReport], None],
        n_waiting_atoms: Callable[[], int],
    ) -> None:
        self.provenances: Mapping[str, Provenance] = {}
        self._pending = pending
        self._suspects = suspects
        self._note_batch = note_batch
        self._n_waiting_atoms = n_waiting_atoms

    def handle(self, message: Message) -> None:
        """Handle a message that answers requests, or tells of runs or batches."""
        match message.kind:
            case Kind.ANSWERS:
                self._complete(message)
            case Kind.SNAPSHOT | Kind.RELAXED:
                self._emit(message)
            case Kind.REPORTS:
                for report in messages.reports_from_message(message):
                    self._note_batch(report)
            case Kind.ERRORS:
                self._fail(message)

    def _complete(self, message: Message) -> None:
        answers, report = messages.answers_from_message(
            message, self.provenances, self._n_waiting_atoms()
        )
        for number, answer in answers:
            if isinstance(request := self._pending.pop(number), Request):
                request.complete(answer)
                if request.is_suspect:
                    self._suspects.clear(request)
        self._note_batch(report)

    def _emit(self, message: Message) -> None:
        number, update, is_last = update_from_message(message)
        run = self._pending.pop(number) if is_last else self._pending.get(number)
        if isinstance(run, Run):
            run.emit(update, is_last=is_last)
            if run.is_suspect:
                self._suspects.clear(run)
                run.is_suspect = False

    def _fail(self, message: Message) -> None:
        for number, error in messages.errors_from_message(message):
            if (entry := self._pending.pop(number)) is not None:
                entry.fail(error)
                if entry.is_suspect:
                    self._suspects.clear(entry)
