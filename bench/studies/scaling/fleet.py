"""Many replicas and the walkers that stay with them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench.studies.scaling.events import Events
from bench.studies.scaling.parameters import Parameters
from twinforce._transports.replication.balance import is_worth_a_move

# Standard deviation of the logarithm of a reported load: queues are seen at some moment of a batch.
_NOISE = 0.3


@dataclass(eq=False, slots=True)
class Home:
    """A replica as far as its walkers are concerned.

    Attributes:
        n_atoms: Atoms of its walkers.
        walkers: Its walkers.
        is_ready: True while new walkers are sent there.
    """

    n_atoms: float = 0.0
    walkers: "set[Sticky]" = field(default_factory=set)
    is_ready: bool = True


@dataclass(eq=False, slots=True)
class Sticky:
    """A walker that stays with its replica.

    Attributes:
        n_atoms: Size of its system.
        home: Replica that it uses; None once it has ended.
    """

    n_atoms: float
    home: Home | None = None


class Fleet:
    """The replicas of a service, and its walkers, which come, stay and go.

    Args:
        parameters: Times and sizes.
        n_homes: Number of replicas.
        seed: Seed of all that is random.
        choice: "two" for the less loaded of two, or "random".
        interval: Mean time in s after which a walker looks at another replica; None means never.
    """

    def __init__(
        self,
        parameters: Parameters,
        n_homes: int,
        seed: int,
        choice: str = "two",
        interval: float | None = None,
    ) -> None:
        self.parameters = parameters
        self.random = np.random.default_rng(seed)
        self.events = Events()
        self.homes = [Home() for _ in range(n_homes)]
        self.n_moves = self.n_walkers = 0
        self._choice, self._interval = choice, interval
        self._draws = iter(())

    def draw(self, n: int) -> int:
        """Return a random number below n."""
        try:
            return int(next(self._draws) * n)
        except StopIteration:
            self._draws = iter(self.random.random(100_000).tolist())
            return int(next(self._draws) * n)

    def ready(self) -> Home:
        """Return a random replica that is ready."""
        while True:
            home = self.homes[self.draw(len(self.homes))]
            if home.is_ready:
                return home

    def add(self, walker: Sticky) -> None:
        """Let a walker choose a replica."""
        first = self.ready()
        if self._choice == "two":
            second = self.ready()
            first = first if first.n_atoms <= second.n_atoms else second
        self._settle(walker, first)

    def arrive(self, duration: float | None = None) -> None:
        """Let a new walker come, and go after a while."""
        walker = Sticky(float(self.parameters.atoms(self.random, 1)[0]))
        self.n_walkers += 1
        self.add(walker)
        if duration is None:
            duration = float(self.parameters.durations(self.random, 1)[0])
        self.events.after(duration, lambda: self._leave(walker))
        if self._interval is not None:
            self.events.after(self._pause(), lambda: self._look(walker))

    def arrive_at(self, rate: Callable[[], float], until: float) -> None:
        """Let walkers come at a rate per second that may change, up to a time."""

        def come() -> None:
            self.arrive()
            self.arrive_at(rate, until)

        pause = float(self.random.exponential(1.0 / max(rate(), 1e-9)))
        if self.events.now + min(pause, 60.0) <= until:
            # What is far away is drawn again, as the rate may be higher by then.
            do = come if pause < 60.0 else (lambda: self.arrive_at(rate, until))
            self.events.after(min(pause, 60.0), do)

    def remove(self, home: Home) -> None:
        """Take a replica away; its walkers choose others."""
        home.is_ready = False
        self.homes.remove(home)
        for walker in list(home.walkers):
            self.add(walker)

    def step_s(self) -> np.ndarray:
        """Return the time of a step of each walker, in s."""
        counts = np.array([len(home.walkers) for home in self.homes])
        atoms = np.array([home.n_atoms for home in self.homes])
        return np.repeat(self.parameters.step_s(counts, atoms), counts)

    def _pause(self) -> float:
        assert self._interval is not None
        return self._interval * (0.5 + self.draw(1_000_000) / 1e6)

    def _look(self, walker: Sticky) -> None:
        """Let a walker take one step elsewhere, and stay there if less is waiting."""
        home = walker.home
        if home is None:
            return
        other = self.ready()
        if other is not home:
            seen = np.exp(_NOISE * self.random.standard_normal(2))
            if is_worth_a_move(
                home.n_atoms * float(seen[0]), (other.n_atoms + walker.n_atoms) * float(seen[1])
            ):
                self._settle(walker, other)
                self.n_moves += 1
        self.events.after(self._pause(), lambda: self._look(walker))

    def _settle(self, walker: Sticky, home: Home) -> None:
        self._unsettle(walker)
        home.walkers.add(walker)
        home.n_atoms += walker.n_atoms
        walker.home = home

    def _unsettle(self, walker: Sticky) -> None:
        if walker.home is not None:
            walker.home.walkers.discard(walker)
            walker.home.n_atoms -= walker.n_atoms
            walker.home = None

    def _leave(self, walker: Sticky) -> None:
        self._unsettle(walker)
        self.n_walkers -= 1
