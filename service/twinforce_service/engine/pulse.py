"""The interface by which the thread that owns a device shows that it goes on."""

from collections.abc import Sequence
from typing import Any, Protocol

from twinforce_service.scheduling.request import Request


class Pulse(Protocol):
    """The signs of life of an engine; each sign says how late the next one may be."""

    def rest(self, seconds: float = 0.0) -> None:
        """Show that no batch is on the device.

        Args:
            seconds: Time until the next sign, beyond the time that is always allowed.
        """

    def begin(self, batch: Sequence[Request[Any]], seconds: float) -> None:
        """Show that the evaluation of a batch begins.

        Args:
            batch: The requests of the batch.
            seconds: Time that it may take, beyond the time that is always allowed.
        """


class NoPulse:
    """The `Pulse` of an engine that nobody watches."""

    def rest(self, seconds: float = 0.0) -> None:
        """Do nothing."""

    def begin(self, batch: Sequence[Request[Any]], seconds: float) -> None:
        """Do nothing."""
