"""Access to the service, as the settings ask for it: keys, tokens and certificates."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.key_ring import KeyRing
from twinforce_service.settings import Settings
from twinforce_service.transports.key_check import KeyCheck
from twinforce_service.transports.tls import Certificates

if TYPE_CHECKING:
    from twinforce_service.callers.tokens.token_ring import TokenRing

logger = logging.getLogger(__name__)

# Seconds between looks at the files.
_INTERVAL_S = 0.5


class AccessControl:
    """The keys, tokens and certificates of the service, kept up to date with where they are from.

    Args:
        settings: Settings of the service.

    Raises:
        KeyFileError: The file of keys is not one.
        OSError: The certificates cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        attempts = FailedAttempts()
        path = Path(settings.keys).expanduser()
        self._keys = KeyRing(path, attempts) if settings.keys else None
        self._tokens = _tokens(settings, self._keys, attempts) if settings.oidc_issuer else None
        self.key_check = KeyCheck(self._keys, self._tokens) if settings.has_keys else None
        self.certificates = _certificates(settings) if settings.tls_certificate else None

    async def follow_files(self) -> None:
        """Read files again when they change, and the keys of the issuer when due, for good.

        A source that fails in a way that nobody has thought of does not keep the others from that.
        """
        failures: dict[str, str] = {}
        while True:
            for name, update in self._updates():
                try:
                    update()
                except Exception as error:
                    if failures.get(name) != repr(error):
                        logger.exception("the %s cannot be kept up to date", name)
                    failures[name] = repr(error)
                else:
                    failures.pop(name, None)
            await asyncio.sleep(_INTERVAL_S)

    def _updates(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the names of what is kept up to date, and what does so."""
        updates: list[tuple[str, Callable[[], None]]] = []
        if self._keys is not None:
            updates.append(("keys", self._keys.reload_if_changed))
        if self.certificates is not None:
            updates.append(("certificates", self.certificates.reload_if_changed))
        if self._tokens is not None:
            updates.append(("keys of the issuer", self._tokens.refresh_if_due))
        return updates


def _tokens(settings: Settings, keys: KeyRing | None, attempts: FailedAttempts) -> "TokenRing":
    # The packages that they need are installed only where tokens are wanted.
    from twinforce_service.callers.tokens.key_set import KeySet
    from twinforce_service.callers.tokens.key_source import KeySource
    from twinforce_service.callers.tokens.policy import TokenPolicy
    from twinforce_service.callers.tokens.token_ring import TokenRing

    policy = TokenPolicy(
        settings.oidc_issuer,
        settings.audiences(),
        settings.oidc_name_claim,
        settings.oidc_scope_claim,
        settings.oidc_scope_prefix,
    )
    source = KeySource(
        settings.oidc_issuer, settings.oidc_jwks, settings.oidc_ca, settings.oidc_token_file
    )
    rules = tuple if keys is None else lambda: keys.rules
    return TokenRing(policy, KeySet(source), rules, attempts)


def _certificates(settings: Settings) -> Certificates:
    client_ca = settings.tls_client_ca
    return Certificates(
        Path(settings.tls_certificate).expanduser(),
        Path(settings.tls_key).expanduser(),
        Path(client_ca).expanduser() if client_ca else None,
    )
