"""Decide whether a batch should wait for walkers that are about to return.

The next request of a walker follows the last answer after a delay that hardly changes. If the
device is free and some walkers wait while others are about to return, there is a choice: evaluate
two batches, or stay idle for a moment and evaluate one. Two batches cost the fixed time of a batch
twice; one batch costs the idle time. The decision compares whole cycles: walkers that are answered
together return together, so the gain recurs in every step from then on.

Walkers are known by their ids, so that nothing here keeps one alive that has ended.

The module uses no threads, no clock and no I/O.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.costs import size
from twinforce_service.scheduling.request import Limits, Request, Walker

# Number of delays of a walker that are kept, and number needed for a prediction.
_N_RETURNS, _MIN_RETURNS = 15, 4
# Quantile of the kept delays that serves as the prediction.
_QUANTILE = 0.9
# The expected saving must exceed the certain loss by this factor.
_MARGIN = 1.25
# Number of walkers that are tracked; beyond it, those seen least recently are dropped.
_MAX_WALKERS = 10_000
# Seconds after its last answer when a walker counts as ended.
_LONGEST_IDLE = 300.0


@dataclass(slots=True)
class Returns:
    """Delays of a walker from an answer to its next request.

    Attributes:
        within: Delay that is rarely exceeded, in s; infinite until enough delays are known.
        answered_at: Time of the last answer, in s.
    """

    within: float = inf
    answered_at: float = -inf
    _delays: deque[float] = field(default_factory=lambda: deque(maxlen=_N_RETURNS))

    def note(self, delay: float) -> None:
        """Add a delay, in s."""
        self._delays.append(delay)
        if len(self._delays) >= _MIN_RETURNS:
            self.within = sorted(self._delays)[int(_QUANTILE * (len(self._delays) - 1) + 0.5)]


class _Away(NamedTuple):
    """A walker that was answered and has not sent its next request."""

    group: Hashable
    n_atoms: int
    n_pairs: int
    answered_at: float
    within: float

    @property
    def back_by(self) -> float:
        return self.answered_at + self.within


@dataclass(slots=True)
class Hold:
    """A decision to keep the device idle.

    Attributes:
        until: Time at which to stop waiting, on the clock of the caller, in s.
        awaited: Ids of the walkers to wait for; stop waiting once the set is empty.
    """

    until: float
    awaited: set[str]


class Holding:
    """Learns the times of batches and the delays of walkers, and decides when a batch should wait.

    Args:
        limits: Limits, among them how long a batch may wait.
        budgets: Limits on the size of a batch; None means those in `limits`.
    """

    def __init__(self, limits: Limits, budgets: Budgets | None = None) -> None:
        self._budgets = budgets or Budgets(limits)
        self._max_hold = limits.max_hold
        self._costs = self._budgets.costs
        self._returns: OrderedDict[str, Returns] = OrderedDict()
        self._away: dict[str, _Away] = {}
        # The walkers among them whose delay is short enough to wait for, by group.
        self._soon: defaultdict[Hashable, dict[str, _Away]] = defaultdict(dict)
        self._hold: Hold | None = None

    @property
    def n_walkers(self) -> int:
        """Number of walkers whose delays are kept."""
        return len(self._returns)

    def note_requests(self, requests: Iterable[Request[Any]], now: float) -> None:
        """Update the delays of the walkers that have sent these requests."""
        for request in requests:
            if request.walker is None:
                continue
            walker = request.walker.id
            if (away := self._leave(walker)) is None:
                continue
            self._returns_of(walker).note(now - away.answered_at)
            if self._hold is not None:
                self._hold.awaited.discard(walker)

    def note_batch(self, batch: Sequence[Request[Any]], seconds: float, now: float) -> None:
        """Record the time of a batch whose requests are being answered now."""
        self._costs.note(batch, seconds)
        if self._max_hold <= 0.0:
            return
        group = batch[0].group
        for request in batch:
            if request.walker is None:
                continue
            walker = request.walker.id
            self._leave(walker)
            returns = self._returns_of(walker)
            returns.answered_at = now
            self._returns.move_to_end(walker)
            away = _Away(group, request.n_atoms, request.n_pairs, now, returns.within)
            self._away[walker] = away
            if returns.within < self._max_hold:
                self._soon[group][walker] = away
        self._forget(now)

    def hold(self, waiting: Sequence[Request[Any]], now: float) -> Hold | None:
        """Return how long a batch should wait and for which walkers, or None if it should not.

        Args:
            waiting: Requests that would be evaluated now, as one batch.
            now: Current time, in s; the device is free.
        """
        self._hold = None
        if self._max_hold > 0.0 and waiting:
            self._hold = self._decide(waiting, now)
        return self._hold

    def _decide(self, waiting: Sequence[Request[Any]], now: float) -> Hold | None:
        group = waiting[0].group
        if not self._soon.get(group):
            return None
        self._costs.learn()
        away = self._expected(group, now)
        atoms, pairs = size(waiting)
        more_atoms = sum(each.n_atoms for each in away.values())
        more_pairs = sum(each.n_pairs for each in away.values())
        if not (away and self._budgets.fits(waiting[0], atoms + more_atoms, pairs + more_pairs)):
            return None
        cost = self._costs.curve(group)
        saved = cost.fixed
        until = max(each.back_by for each in away.values())
        idle = until - now
        if _MARGIN * idle >= saved or idle > self._max_hold:
            return None
        alone = cost.seconds(atoms, pairs)
        together = cost.seconds(atoms + more_atoms, pairs + more_pairs)
        if any(request.is_expired(until + together) for request in waiting):
            return None
        n_patient = sum(not self._is_quick(each.walker, saved / _MARGIN) for each in waiting)
        gained = (saved - _MARGIN * idle) * (len(away) + len(waiting) - n_patient)
        lost = (idle + together - alone) * n_patient
        return Hold(until, set(away)) if gained > lost else None

    def _expected(self, group: Hashable, now: float) -> dict[str, _Away]:
        """Return the walkers that are about to return, and drop those that are late.

        Walkers whose delay is longer than the fixed cost of a batch are left out: the device would
        idle for them in every cycle.
        """
        soon = {walker: each for walker, each in self._soon[group].items() if now < each.back_by}
        self._soon[group] = soon
        worth = self._costs.curve(group).fixed
        return {walker: each for walker, each in soon.items() if _MARGIN * each.within < worth}

    def _is_quick(self, walker: Walker | None, delay: float) -> bool:
        """Return True if a walker returns so soon that it gains from a shorter cycle."""
        returns = None if walker is None else self._returns.get(walker.id)
        return returns is not None and returns.within < delay

    def _forget(self, now: float) -> None:
        """Drop the walkers that have ended, as far as one can tell, and those that are too many."""
        while self._returns:
            walker, longest_idle = next(iter(self._returns.items()))
            is_idle = now - longest_idle.answered_at > _LONGEST_IDLE
            if not is_idle and len(self._returns) <= _MAX_WALKERS:
                return
            del self._returns[walker]
            self._leave(walker)

    def _returns_of(self, walker: str) -> Returns:
        if (returns := self._returns.get(walker)) is None:
            returns = self._returns[walker] = Returns()
        return returns

    def _leave(self, walker: str) -> _Away | None:
        away = self._away.pop(walker, None)
        if away is not None:
            self._soon[away.group].pop(walker, None)
        return away
