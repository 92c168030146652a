"""What an engine is asked to move, and how it tells how that goes."""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from twinforce_dynamics.codec.checkpoint import CheckpointSummary
from twinforce_dynamics.relaxation import Relaxed
from twinforce_dynamics.requests import PropagateRequest, RelaxRequest
from twinforce_dynamics.trajectory import Snapshot
from twinforce_proto import ServiceError
from twinforce_proto.headers import NORMAL_URGENCY
from twinforce_service.scheduling.request import Walker

# What is told on the way.
Update: TypeAlias = Snapshot | Relaxed
# Lets an engine tell so many more milestones.
Credit: TypeAlias = Callable[[int], None]


@dataclass(slots=True, eq=False)
class Run:
    """A walker that an engine moves by itself, from milestone to milestone.

    Attributes:
        wanted: What moves, and how far.
        on_update: Told of each milestone and whether it is the last, in a thread of the engine.
        n_ahead: Milestones that may be told before more are granted. Nothing is computed beyond,
            so that who does not read holds up nobody and fills no memory.
        deadline: When nobody waits any longer, on the clock of `time.monotonic`, in s.
        request_id: What the logs call it.
        walker: Whose steps they are.
        urgency: Of all that it asks, from 0, the most urgent, to 7.
        n_atoms: How many atoms move.
        future: Gets None after the last milestone, or a `ServiceError`; cancel it when nobody
            waits any more.

    Raises:
        InvalidRequestError: The checkpoint that it is to go on from is none.
    """

    wanted: PropagateRequest | RelaxRequest
    on_update: Callable[[Update, bool], None]
    credit: int
    deadline: float | None = None
    request_id: str = ""
    walker: Walker = field(default_factory=Walker)
    urgency: int = NORMAL_URGENCY
    n_atoms: int = field(init=False)
    future: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.n_atoms = _n_atoms(self.wanted)

    def tell(self, update: Update, *, is_last: bool) -> None:
        """Tell a milestone, unless nobody waits any more; after the last one it is over."""
        if self.future.done():
            return
        self.on_update(update, is_last)
        if is_last:
            with suppress(InvalidStateError):
                self.future.set_result(None)

    def fail(self, error: ServiceError) -> None:
        """End it with this error, unless it is over."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


def _n_atoms(wanted: PropagateRequest | RelaxRequest) -> int:
    if isinstance(wanted, RelaxRequest):
        return len(wanted.system)
    origin = wanted.origin
    return (
        CheckpointSummary.from_bytes(origin).n_atoms
        if isinstance(origin, bytes)
        else len(origin.system)
    )
