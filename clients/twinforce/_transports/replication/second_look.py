"""The second look of a walker: now and then it takes one step at another replica.

It moves if less is waiting there, as it may after replicas have started again. Otherwise it goes
on where it was. Loads are known from replies alone: no call is made for them, and no step is made
twice.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from twinforce._transports.replication.balance import is_worth_a_move
from twinforce._transports.replication.replica import Replica
from twinforce._transports.replication.replicas import Replicas
from twinforce._transports.transport import Call
from twinforce_proto.v1 import inference_pb2 as pb

# Mean time in s between two looks of a walker; docs/scaling.md shows what it changes.
_INTERVAL_S = 300.0
_SHORTEST_TIMEOUT_S = 1e-3
# Time limit in s of a look during a step that has none.
_LONGEST_LOOK_S = 60.0


class SecondLooks:
    """The times of the looks of one walker, and what its messages amount to.

    Args:
        clock: Time in s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps = StepMemory()
        self._is_whole_next = False
        self._weights = ""
        self._plan()

    def note(self, call: Call) -> None:
        """Take the next call of the walker, which may leave out what the last one said."""
        self._steps.note(call.message)

    def own(self, call: Call, elapsed: float) -> Call:
        """Return the call for the replica of the walker: a whole one after a step elsewhere.

        Args:
            call: The call of the walker.
            elapsed: Time in s that a look has taken of its time limit.
        """
        if not self._is_whole_next:
            return call
        self._is_whole_next = False
        left = None if call.timeout is None else max(call.timeout - elapsed, _SHORTEST_TIMEOUT_S)
        return Call(call.method, self._steps.whole(), left, call.n_lost)

    def note_reply(self, reply: Message) -> None:
        """Take a reply of the replica of the walker, which tells the weights that it has."""
        self._weights = _weights_in(reply)

    def accepts(self, reply: Message) -> bool:
        """Return True if the reply of another replica is as good: of the same weights, no error.

        Otherwise the replica of the walker takes the step, too.
        """
        is_error = isinstance(reply, pb.StreamReply) and reply.HasField("error")
        return not is_error and _weights_in(reply) == self._weights

    def whole(self, call: Call) -> Call:
        """Return a call that leaves nothing out, for another replica.

        It may take half of the time of the step: if the other replica does not answer, the replica
        of the walker has the rest.
        """
        timeout = _LONGEST_LOOK_S if call.timeout is None else call.timeout / 2.0
        return Call(call.method, self._steps.whole(), timeout, call.n_lost)

    def place(self, replicas: Replicas[Any], current: Replica[Any]) -> Replica[Any] | None:
        """Return another replica to take the next step at, if it is time for that."""
        is_back = self._is_whole_next  # from there, so that its own replica tells its load first
        if self._clock() < self._due_at or current.load is None or is_back:
            return None
        self._plan()
        other = replicas.choose_other(current)
        if other is not None:
            self._is_whole_next = True
        return other

    def is_better(self, current: Replica[Any], other: Replica[Any]) -> bool:
        """Return True if the walker should stay where it has taken its last step."""
        if current.load is None or other.load is None:
            return False
        is_better = is_worth_a_move(current.load.n_atoms, other.load.n_atoms)
        self._is_whole_next = not is_better
        return is_better

    def _plan(self) -> None:
        pause = random.uniform(0.5, 1.5) * _INTERVAL_S  # noqa: S311, nobody gains from guessing it
        self._due_at = self._clock() + pause


class StepMemory:
    """The messages of a stream that its next message builds on; they are kept, not copied."""

    def __init__(self) -> None:
        self._first = self._system = self._cell = self._move = self._outputs = pb.StreamRequest()

    def note(self, message: Message) -> None:
        """Take the next message of the stream."""
        assert isinstance(message, pb.StreamRequest)
        if message.model:
            self._first = self._outputs = message
        if message.outputs:
            self._outputs = message
        if message.HasField("system"):
            self._system = self._cell = self._move = message
        else:
            self._move = message
            if message.move.HasField("cell"):
                self._cell = message

    def whole(self) -> pb.StreamRequest:
        """Return a message that says all that the messages so far have said."""
        whole = pb.StreamRequest(model=self._first.model, outputs=self._outputs.outputs)
        if self._first.HasField("reply_dtype"):
            whole.reply_dtype = self._first.reply_dtype
        whole.system.CopyFrom(self._system.system)
        if self._move is not self._system:
            whole.system.positions.CopyFrom(self._move.move.positions)
        if self._cell is not self._system:
            whole.system.cell.CopyFrom(self._cell.move.cell)
        return whole


def _weights_in(reply: Any) -> str:
    """Return the hash of the weights that made a reply, empty if it does not tell."""
    return str(reply.provenance.sha256)
