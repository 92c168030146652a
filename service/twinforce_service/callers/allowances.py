"""The allowances of each caller: the rest of its limits."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite

from twinforce_proto import InvalidRequestError, OverloadedError
from twinforce_service.callers.caller import Caller
from twinforce_service.callers.limits import UNLIMITED, CallerLimits

_SECOND, _DAY = 1.0, 86_400.0
# Seconds after which to come back while requests are in flight: bounds, and a first guess.
_SHORTEST, _LONGEST, _GUESS = 0.1, 60.0, 1.0
# Number of callers with limits that are remembered before those that do nothing are forgotten.
_MANY = 1000
# The context of a request whose caller has no limits.
_UNCOUNTED = nullcontext()


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rest of one limit of a caller.

    Attributes:
        name: Name of the limit, a field of `CallerLimits`.
        quota: Value of the limit.
        window: Seconds in which as much may be used; None for what is in use at the same time.
        left: Part that may still be used; at least 0.
        reset: Seconds until all of it may be used again.
    """

    name: str
    quota: float
    window: float | None
    left: float
    reset: float


class _Bucket:
    """A bucket of tokens that is filled at a steady rate."""

    def __init__(self, capacity: float, window: float, now: float) -> None:
        self.capacity = capacity
        self.window = window
        self._rate = capacity / window
        self._level = capacity
        self._filled_at = now

    def level(self, now: float) -> float:
        """Return the number of tokens; negative if more were taken than there were."""
        self._level = min(self._level + self._rate * (now - self._filled_at), self.capacity)
        self._filled_at = now
        return self._level

    def take(self, n: float, now: float) -> None:
        """Take tokens, or give them back if the number is negative."""
        self._level = min(self.level(now) - n, self.capacity)

    def seconds_until(self, n: float, now: float) -> float:
        """Return the time until there are so many tokens, in s."""
        return max(n - self.level(now), 0.0) / self._rate


class _Standing:
    """The use that a caller makes of the service."""

    def __init__(self, limits: CallerLimits, now: float) -> None:
        self.n_requests = self.n_atoms = self.n_runs = 0
        self.usual_seconds = _GUESS
        self.limit(limits, now)

    def limit(self, limits: CallerLimits, now: float) -> None:
        """Set the limits; what is in flight stays counted."""
        self.limits = limits
        self.atoms = _bucket(limits.atoms_per_second, _SECOND, now)
        self.steps = _bucket(limits.steps_per_day, _DAY, now)

    def is_new(self, now: float) -> bool:
        """Return True if a caller that has never asked would be the same."""
        buckets = [bucket for bucket in (self.atoms, self.steps) if bucket is not None]
        is_idle = not (self.n_requests or self.n_runs)
        return is_idle and all(bucket.level(now) >= bucket.capacity for bucket in buckets)


class Allowances:
    """Refuses what exceeds the limits of its caller, and knows what is left of them.

    It is used in one thread.

    Args:
        default: Limits of callers without limits of their own.
        clock: Returns the time, in s.
    """

    def __init__(
        self, default: CallerLimits = UNLIMITED, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._default = UNLIMITED if default == UNLIMITED else default
        self._clock = clock
        self._states: dict[str, _Standing] = {}
        self._n_bearable = _MANY

    def request(
        self, caller: Caller, n_atoms: int, n_evaluated: int | None = None
    ) -> AbstractContextManager[None]:
        """Return a context within which a request counts as in flight.

        Args:
            caller: Caller that asks.
            n_atoms: Atoms of its systems.
            n_evaluated: Atoms of all evaluations, if these are more.

        Raises:
            OverloadedError: A limit is reached; the error says which, and when to come back.
        """
        state = self._state_of(caller)
        return _UNCOUNTED if state is None else self._counted(state, caller, n_atoms, n_evaluated)

    @contextmanager
    def _counted(
        self, state: _Standing, caller: Caller, n_atoms: int, n_evaluated: int | None
    ) -> Iterator[None]:
        limits, started = state.limits, self._clock()
        self._check_in_flight(caller, state, n_atoms)
        if (atoms := state.atoms) is not None:
            # A request with more atoms than a second allows is answered, and those after it wait.
            if atoms.level(started) <= 0.0:
                wait = max(atoms.seconds_until(0.0, started), _SHORTEST)
                raise _refusal(caller, "atoms_per_second", limits.atoms_per_second, wait)
            atoms.take(n_atoms if n_evaluated is None else n_evaluated, started)
        state.n_requests += 1
        state.n_atoms += n_atoms
        try:
            yield
        finally:
            state.n_requests -= 1
            state.n_atoms -= n_atoms
            took = min(max(self._clock() - started, _SHORTEST), _LONGEST)
            state.usual_seconds += 0.2 * (took - state.usual_seconds)

    @contextmanager
    def run(
        self, caller: Caller, n_atoms: int, n_steps: int, field: str
    ) -> Iterator[Callable[[int], None]]:
        """Count a run as in flight within the context; yield a function that returns steps.

        Args:
            caller: Caller that asks.
            n_atoms: Atoms of the system.
            n_steps: Steps that it may take.
            field: Name of this number in the request.

        Raises:
            OverloadedError: A limit is reached; the error says which, and when to come back.
            InvalidRequestError: No day has so many steps.
        """
        if (state := self._state_of(caller)) is None:
            yield lambda _: None
            return
        limits, now = state.limits, self._clock()
        if n_steps > limits.steps_per_day:
            expected = f"at most {limits.steps_per_day:g}, the steps_per_day of {caller.name}"
            raise InvalidRequestError.expected(field, expected, n_steps)
        if state.n_runs >= limits.max_runs:
            raise _refusal(caller, "max_runs", limits.max_runs, state.usual_seconds)
        steps = state.steps
        if steps is not None and (wait := steps.seconds_until(n_steps, now)) > 0.0:
            raise _refusal(caller, "steps_per_day", limits.steps_per_day, wait)

        def take(n: int) -> None:
            if steps is not None:
                steps.take(n, self._clock())

        with self.request(caller, n_atoms, 0):
            state.n_runs += 1
            take(n_steps)
            try:
                yield lambda n_unused: take(-n_unused)
            finally:
                state.n_runs -= 1

    def left(self, caller: Caller) -> list[Allowance]:
        """Return what is left of each limit of a caller."""
        if (state := self._state_of(caller)) is None:
            return []
        limits, now = state.limits, self._clock()
        in_use = {
            "max_requests": state.n_requests,
            "max_atoms": state.n_atoms,
            "max_runs": state.n_runs,
        }
        found = []
        for name, used in in_use.items():
            quota: float = getattr(limits, name)
            reset = state.usual_seconds if used else 0.0
            found.append(Allowance(name, quota, None, max(quota - used, 0.0), reset))
        buckets = {"atoms_per_second": state.atoms, "steps_per_day": state.steps}
        for name, bucket in buckets.items():
            if bucket is not None:
                left, quota = max(bucket.level(now), 0.0), bucket.capacity
                reset = bucket.seconds_until(quota, now)
                found.append(Allowance(name, quota, bucket.window, left, reset))
        return [each for each in found if isfinite(each.quota)]

    def _check_in_flight(self, caller: Caller, state: _Standing, n_atoms: int) -> None:
        limits, wait = state.limits, state.usual_seconds
        if state.n_requests >= limits.max_requests:
            raise _refusal(caller, "max_requests", limits.max_requests, wait)
        if state.n_atoms and state.n_atoms + n_atoms > limits.max_atoms:
            raise _refusal(caller, "max_atoms", limits.max_atoms, wait)

    def _state_of(self, caller: Caller) -> _Standing | None:
        """Return what a caller is using; None if it has no limits."""
        limits = self._default if caller.limits is None else caller.limits
        if limits is UNLIMITED or limits == UNLIMITED:
            return None
        state = self._states.get(caller.name)
        if state is None:
            self._forget()
            state = self._states[caller.name] = _Standing(limits, self._clock())
        elif state.limits != limits:
            state.limit(limits, self._clock())
        return state

    def _forget(self) -> None:
        """Forget callers of whom there is nothing to remember, when there are many."""
        if len(self._states) < self._n_bearable:
            return
        now = self._clock()
        self._states = {
            name: state for name, state in self._states.items() if not state.is_new(now)
        }
        self._n_bearable = max(2 * len(self._states), _MANY)


def _bucket(quota: float, window: float, now: float) -> _Bucket | None:
    """Return the bucket of a limit; None without one."""
    return _Bucket(quota, window, now) if isfinite(quota) else None


def _refusal(caller: Caller, name: str, quota: float, wait: float) -> OverloadedError:
    text = f"{name}: {caller.name} has reached its limit of {quota:g}; try again in {wait:.3g} s"
    return OverloadedError(text, field=name, retry_after=wait)
