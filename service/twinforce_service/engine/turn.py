"""The interface by which engines of one device evaluate their batches one after another."""

from typing import Protocol


class Turn(Protocol):
    """The right of an engine to use a device that it shares with other engines.

    Attributes:
        patience: Time that `begin` may take, in s.
    """

    patience: float

    def begin(self) -> bool:
        """Return when the device may be used, True if other engines have used it meanwhile."""

    def end(self) -> None:
        """Leave the device to the others, if it was used."""


class OwnDevice:
    """The `Turn` of an engine that shares its device with no other."""

    patience = 0.0

    def begin(self) -> bool:
        """Return at once."""
        return False

    def end(self) -> None:
        """Do nothing."""
