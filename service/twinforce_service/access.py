"""Access to the service, as the settings ask for it: keys."""

import asyncio
from pathlib import Path

from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.settings import Settings
from twinforce_service.transports.key_check import KeyCheck

# Seconds between looks at the files.
_INTERVAL_S = 0.5


class Access:
    """The keys of the service, kept up to date with their files.

    Args:
        settings: Settings of the service.

    Raises:
        KeyFileError: The file of keys is not one.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = KeyRing(Path(settings.keys).expanduser()) if settings.keys else None
        self.key_check = None if self._keys is None else KeyCheck(self._keys)

    async def follow_files(self) -> None:
        """Read files again when they change, for good."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if self._keys is not None:
                self._keys.reload_if_changed()
