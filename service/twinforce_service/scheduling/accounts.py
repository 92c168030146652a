"""Accounts of device time, by which those who share a device take turns.

This is start-time fair queueing (Goyal, Vin and Cheng, IEEE/ACM Trans. Netw. 5, 690, 1997): an
account holds the time that its owner has used, divided by the share. The next turn belongs to the
owner with the least. The virtual time follows the turns; who comes back after a while starts there,
so that nobody saves up time and nobody has to make up for time that no one else wanted.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

# Number of accounts that may exist before those that hold no information are removed.
_FEW = 64


@dataclass(slots=True, eq=False)
class Account:
    """The device time that a caller, or one of its connections, has used.

    Attributes:
        used: Time that was used, divided by the share, in s. It only grows.
        share: Share of the device, relative to other accounts of the same kind.
        delay: Time that each of the others may use before it is the turn of this account, in s;
            negative for a privilege.
        n_waiting: Number of requests that wait.
        parts: Accounts of those who share this account.
    """

    used: float
    share: float
    delay: float = 0.0
    n_waiting: int = 0
    parts: "Accounts" = field(default_factory=lambda: Accounts())
    _overcharged: float = 0.0

    @property
    def turn(self) -> float:
        """Virtual time of the next turn; it only grows."""
        return self.used + self.delay

    def charge(self, seconds: float) -> None:
        """Add device time; negative time corrects an estimate and reduces the next charges."""
        change = seconds / self.share - self._overcharged
        if change >= 0.0:
            self._overcharged = 0.0
            self.used += change
        else:
            self._overcharged = -change

    def catch_up(self, time: float) -> None:
        """Forget what was not used before this virtual time."""
        if self.used < time:
            self.used, self._overcharged = time, 0.0


class Accounts:
    """Accounts by name and delay, and their virtual time."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[Hashable, float], Account] = {}
        self._n_bearable = _FEW
        self._time = 0.0

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, name: Hashable, delay: float = 0.0) -> Account | None:
        """Return an account, if it is known."""
        return self._accounts.get((name, delay))

    def enter(self, name: Hashable, share: float = 1.0, delay: float = 0.0) -> Account:
        """Return the account of a request that begins to wait."""
        if (account := self._accounts.get((name, delay))) is None:
            self._forget()
            account = self._accounts[name, delay] = Account(self._time, share, delay)
        elif not account.n_waiting:
            account.catch_up(self._time)
        account.share = share
        account.n_waiting += 1
        return account

    def note_turn(self, account: Account, *, is_first: bool = True) -> None:
        """Note that it is the turn of an account.

        The virtual time moves to the turn of the first account of a batch, which may come before or
        after it.
        """
        if account.delay > 0.0:
            account.catch_up(self._time)
        turn = account.used + min(account.delay, 0.0)
        if is_first and turn > self._time:
            self._time = turn

    def _forget(self) -> None:
        """Remove accounts that say no more than new ones would, when there are many."""
        if len(self._accounts) < self._n_bearable:
            return
        self._accounts = {
            key: account
            for key, account in self._accounts.items()
            if account.n_waiting or account.used > self._time
        }
        self._n_bearable = max(2 * len(self._accounts), _FEW)
