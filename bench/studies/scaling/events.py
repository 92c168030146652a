"""Events in the order of their time."""

import heapq
from collections.abc import Callable
from itertools import count


class Events:
    """The events that are to come, and the clock.

    Attributes:
        now: Time of the present event, in s.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, time: float, do: Callable[[], None]) -> None:
        """Let something happen at a time, in s; events of one time happen in this order."""
        heapq.heappush(self._heap, (time, next(self._numbers), do))

    def after(self, delay: float, do: Callable[[], None]) -> None:
        """Let something happen after a delay, in s."""
        self.at(self.now + delay, do)

    def every(self, interval: float, do: Callable[[], None]) -> None:
        """Let something happen at regular intervals, in s."""

        def again() -> None:
            do()
            self.after(interval, again)

        self.after(interval, again)

    def run(self, until: float) -> None:
        """Let all events happen up to a time, in s."""
        while self._heap and self._heap[0][0] <= until:
            self.now, _, do = heapq.heappop(self._heap)
            do()
        self.now = until
