"""When a batch should wait for walkers that are about to return.  No threads, no clock, no I/O.

A walker's next request follows our answer by a delay that hardly changes. Where the device is free
and some walkers wait while others are on their way back, there is a choice: to evaluate two
batches, or to stay idle a little for one. Two cost twice what a batch costs however small it is;
one costs the idle time. What is compared is the cycle that follows: walkers that are answered
together return together, so what is gained is gained in every step from then on.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from twinforce_service.scheduling.budgets import Budgets
from twinforce_service.scheduling.costs import CostCurve
from twinforce_service.scheduling.request import Limits, Request, Walker

# Returns of a walker that are remembered, and how many must be known before it is counted on.
_N_RETURNS, _MIN_RETURNS = 15, 4
# Of the remembered returns, this share was not later than what is counted on.
_QUANTILE = 0.9
# What is hoped to be saved must be so many times what is certain to be lost.
_MARGIN = 1.25
# Walkers that are remembered; beyond, those that were not heard of for longest are forgotten.
_MAX_WALKERS = 10_000


@dataclass(slots=True)
class Returns:
    """How long a walker takes from our answer to its next request.

    Attributes:
        within: What it takes at most, except now and then, in s; infinite while hardly known.
    """

    within: float = inf
    _delays: deque[float] = field(default_factory=lambda: deque(maxlen=_N_RETURNS))

    def note(self, delay: float) -> None:
        """Learn from one return, in s."""
        self._delays.append(delay)
        if len(self._delays) >= _MIN_RETURNS:
            self.within = sorted(self._delays)[int(_QUANTILE * (len(self._delays) - 1) + 0.5)]


@dataclass(frozen=True, slots=True)
class _Away:
    """A walker that was answered: what it asked for, and when."""

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
    """A device that is kept idle.

    Attributes:
        until: No longer than this, on the clock of who asked, in s.
        awaited: Who is to return; nothing is waited for once all have.
    """

    until: float
    awaited: set[Walker]


class Holding:
    """Learns what batches cost and when walkers return, and decides which batches should wait.

    Args:
        limits: How long a batch may wait.
        budgets: How much goes into a batch; None: what the limits say.
    """

    def __init__(self, limits: Limits, budgets: Budgets | None = None) -> None:
        self._budgets = budgets or Budgets(limits)
        self._max_hold = limits.max_hold
        self._costs: defaultdict[Hashable, CostCurve] = defaultdict(CostCurve)
        self._returns: OrderedDict[Walker, Returns] = OrderedDict()
        self._away: dict[Walker, _Away] = {}
        # Those of them that may be worth waiting for.
        self._soon: defaultdict[Hashable, dict[Walker, _Away]] = defaultdict(dict)
        self._hold: Hold | None = None
        # What batches took, not learned from yet: their group, atoms, pairs and s.
        self._taken: list[tuple[Hashable, int, int, float]] = []

    def note_requests(self, requests: Iterable[Request[Any]], now: float) -> None:
        """Learn when walkers have returned."""
        for request in requests:
            walker = request.walker
            if walker is None or (away := self._leave(walker)) is None:
                continue
            returns = self._returns.setdefault(walker, Returns())
            returns.note(now - away.answered_at)
            if self._hold is not None:
                self._hold.awaited.discard(walker)

    def note_batch(self, batch: Sequence[Request[Any]], seconds: float, now: float) -> None:
        """Learn what a batch took; its requests are being answered now."""
        if self._max_hold <= 0.0:
            return
        group = batch[0].group
        self._taken.append((group, *_size(batch), seconds))
        for request in batch:
            if (walker := request.walker) is None:
                continue
            self._leave(walker)
            returns = self._returns.setdefault(walker, Returns())
            self._returns.move_to_end(walker)
            within = returns.within
            away = _Away(group, request.n_atoms, request.n_pairs, now, within)
            self._away[walker] = away
            if within < self._max_hold:
                self._soon[group][walker] = away
        while len(self._returns) > _MAX_WALKERS:
            forgotten, _ = self._returns.popitem(last=False)
            self._leave(forgotten)

    def learn(self, *, at_least: int = 1) -> None:
        """Learn from what batches took, which takes longer than to note it.

        Args:
            at_least: Of them; where there are less nothing is learned yet.
        """
        if len(self._taken) < at_least:
            return
        for group, n_atoms, n_pairs, seconds in self._taken:
            self._costs[group].note(n_atoms, n_pairs, seconds)
        self._taken.clear()

    def hold(self, waiting: Sequence[Request[Any]], now: float) -> Hold | None:
        """Return until when a batch should wait, and for whom; None where it should not.

        Args:
            waiting: What would be evaluated now; requests that may share a batch.
            now: The time, in s; the device is free.
        """
        self._hold = None
        if self._max_hold > 0.0 and waiting:
            self._hold = self._decided(waiting, now)
        return self._hold

    def _decided(self, waiting: Sequence[Request[Any]], now: float) -> Hold | None:
        group = waiting[0].group
        if not self._soon.get(group):
            return None
        self.learn()
        away = self._expected(group, now)
        atoms, pairs = _size(waiting)
        more_atoms = sum(each.n_atoms for each in away.values())
        more_pairs = sum(each.n_pairs for each in away.values())
        if not (away and self._budgets.fits(waiting[0], atoms + more_atoms, pairs + more_pairs)):
            return None
        cost = self._costs[group]
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

    def _expected(self, group: Hashable, now: float) -> dict[Walker, _Away]:
        """Return who is to come back soon, and look no longer for those who should have.

        Who takes longer than a small batch costs is worth no waiting: it would be the device that
        waits in each cycle.
        """
        soon = {walker: each for walker, each in self._soon[group].items() if now < each.back_by}
        self._soon[group] = soon
        worth = self._costs[group].fixed
        return {walker: each for walker, each in soon.items() if _MARGIN * each.within < worth}

    def _is_quick(self, walker: Walker | None, delay: float) -> bool:
        """Tell whether a walker returns so soon that it gains from every cycle that is shorter."""
        returns = None if walker is None else self._returns.get(walker)
        return returns is not None and returns.within < delay

    def _leave(self, walker: Walker) -> _Away | None:
        away = self._away.pop(walker, None)
        if away is not None:
            self._soon[away.group].pop(walker, None)
        return away


def _size(requests: Sequence[Request[Any]]) -> tuple[int, int]:
    return sum(each.n_atoms for each in requests), sum(each.n_pairs for each in requests)
