"""Access to the service, as the settings ask for it: keys and certificates."""

import asyncio
from pathlib import Path

from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.settings import Settings
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.tls import Certificates

# Seconds between looks at the files.
_INTERVAL_S = 0.5


class AccessControl:
    """The keys and certificates of the service, kept up to date with their files.

    Args:
        settings: Settings of the service.

    Raises:
        KeyFileError: The file of keys is not one.
        OSError: The certificates cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._keys = KeyRing(Path(settings.keys).expanduser()) if settings.keys else None
        self.key_check = None if self._keys is None else KeyCheck(self._keys)
        self.certificates = _certificates(settings) if settings.tls_certificate else None

    async def follow_files(self) -> None:
        """Read files again when they change, for good."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            for each in (self._keys, self.certificates):
                if each is not None:
                    each.reload_if_changed()


def _certificates(settings: Settings) -> Certificates:
    client_ca = settings.tls_client_ca
    return Certificates(
        Path(settings.tls_certificate).expanduser(),
        Path(settings.tls_key).expanduser(),
        Path(client_ca).expanduser() if client_ca else None,
    )
