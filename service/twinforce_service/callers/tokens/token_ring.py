"""The tokens that were verified, and the verification of others."""

import asyncio
import hashlib
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakValueDictionary

import jwt

from twinforce_proto import OverloadedError, UnauthenticatedError
from twinforce_service.callers.attempts import FailedAttempts
from twinforce_service.callers.entry import AccessEntry
from twinforce_service.callers.key_file import TokenRule
from twinforce_service.callers.tokens.key_set import KeySet
from twinforce_service.callers.tokens.policy import TokenPolicy
from twinforce_service.callers.tokens.signing_keys import ALGORITHMS, SigningKey

logger = logging.getLogger(__name__)

# Seconds by which the clocks of the issuer and of this machine may differ.
_LEEWAY_S = 60.0
# Letters of a token, and of all verified tokens that are remembered.
_MOST_LETTERS, _MOST_REMEMBERED = 16 * 1024, 8 * 2**20
# Tokens are verified one after another; so many may wait.
_MOST_WAITING = 64
_BUSY_S = 1.0


class _WrongTokenError(Exception):
    """A token is not accepted; the text says why, without the token."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class _Verified:
    """A token whose signature, issuer and audience are right.

    Attributes:
        claims: Its claims.
        key: Key that verified it.
        n_letters: Length of its text.
        entry: What it allows; None if that is to be found, or is nothing.
        made_for: The keys and rules for which this was found.
    """

    claims: Mapping[str, Any]
    key: SigningKey
    n_letters: int
    entry: AccessEntry | None = None
    made_for: tuple[object, object] = (None, None)


class TokenRing:
    """The tokens of an issuer, which are verified once and then found by a fast hash.

    A token stays verified while its key is one of the issuer. It is used in one event loop.

    Args:
        policy: The tokens that are accepted.
        key_set: Keys of the issuer.
        rules: Returns the entries for tokens, another object after each change.
        attempts: Failed attempts, by address.
        clock: Returns the time since 1970, in s.
    """

    def __init__(
        self,
        policy: TokenPolicy,
        key_set: KeySet,
        rules: Callable[[], Sequence[TokenRule]] = tuple,
        attempts: FailedAttempts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._key_set = key_set
        self._rules = rules
        self._attempts = attempts or FailedAttempts()
        self._clock = clock
        self._salt = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        # Those that somebody holds are found as well when there was no more room for them.
        self._held: WeakValueDictionary[bytes, _Verified] = WeakValueDictionary()
        self._n_letters = self._n_waiting = 0
        self._verifying = ThreadPoolExecutor(1, "twinforce-tokens")

    def refresh_if_due(self) -> None:
        """Begin to read the keys of the issuer if that is due."""
        self._key_set.refresh_if_due()

    def find(self, text: str, *, may_be_expired: bool = False) -> AccessEntry | None:
        """Return what a token allows if it was verified before; that takes microseconds.

        Args:
            text: The token.
            may_be_expired: True to accept a token that was valid once.

        Raises:
            UnauthenticatedError: It has expired, or is not valid yet.
            PermissionDeniedError: It allows nothing.
        """
        digest = self._fast_hash(text)
        if (found := self._held.get(digest)) is None:
            return None
        if digest in self._verified:
            self._verified.move_to_end(digest)
        if not self._is_current(found):
            self._forget(digest)
            del self._held[digest]
            return None
        if found.entry is None:
            found.entry = self._policy.entry_for(found.claims, self._rules())
        self._check_times(found, found.entry, may_be_expired=may_be_expired)
        return found.entry

    def hold(self, text: str) -> object:
        """Return an object; while it exists, a verified token is found even without room for it."""
        return self._held.get(self._fast_hash(text))

    async def verify(self, text: str, address: str) -> AccessEntry:
        """Return what a token allows.

        Args:
            text: The token.
            address: Address of the caller, which may fail a few times a minute only.

        Raises:
            UnauthenticatedError: The token is not valid.
            PermissionDeniedError: It allows nothing.
            OverloadedError: The address has failed too often, or too many tokens are being
                verified.
            UnavailableError: The keys of the issuer cannot be read.
        """
        if (known := self.find(text)) is not None:
            return known
        if (wait := self._attempts.wait(address)) > 0:
            raise OverloadedError("too many wrong tokens came from this address", retry_after=wait)
        try:
            await self._remember(text)
        except _WrongTokenError as error:
            self._attempts.note(address)
            extra = {"address": address, "reason": str(error)}
            logger.warning("a request with a wrong token was refused", extra=extra)
            text = f"{self._policy.expected}; {error}"
            raise UnauthenticatedError(text) from None
        found = self.find(text)
        if found is None:  # its key was withdrawn meanwhile
            raise UnauthenticatedError(f"{self._policy.expected}; its key is not valid any more")
        return found

    async def _remember(self, text: str) -> None:
        """Verify a token and keep it."""
        key_id, algorithm = _header(text)
        key = await self._key_set.find(key_id, algorithm)
        if key is None:
            raise _WrongTokenError("its signature is by none of the keys of the issuer")
        if self._n_waiting >= _MOST_WAITING:
            raise OverloadedError("too many tokens are being verified", retry_after=_BUSY_S)
        self._n_waiting += 1
        loop = asyncio.get_running_loop()
        try:
            claims = await loop.run_in_executor(
                self._verifying, _claims, text, key, algorithm, self._policy
            )
        except RuntimeError as error:  # the system has no more threads
            logger.error("a token cannot be verified: %s", error)
            text = "the token cannot be verified now; try again"
            raise OverloadedError(text, retry_after=_BUSY_S) from error
        finally:
            self._n_waiting -= 1
        digest = self._fast_hash(text)
        # Another request may have verified it meanwhile, whose stream holds what it found.
        found = self._held.get(digest)
        if found is None or not self._is_current(found):
            found = _Verified(claims, key, len(text))
        self._forget(digest)
        self._verified[digest] = self._held[digest] = found
        self._n_letters += len(text)
        while self._n_letters > _MOST_REMEMBERED:
            self._forget(next(iter(self._verified)))

    def _forget(self, digest: bytes) -> None:
        if (found := self._verified.pop(digest, None)) is not None:
            self._n_letters -= found.n_letters

    def _is_current(self, found: _Verified) -> bool:
        """Return False if the issuer has withdrawn the key; forget what changed rules allowed."""
        keys, rules = self._key_set.keys, self._rules()
        if keys is not found.made_for[0] or rules is not found.made_for[1]:
            found.entry, found.made_for = None, (keys, rules)
            return found.key in keys
        return True

    def _check_times(self, found: _Verified, entry: AccessEntry, *, may_be_expired: bool) -> None:
        now, claims = self._clock(), found.claims
        if not may_be_expired and now >= claims["exp"] + _LEEWAY_S:
            raise UnauthenticatedError(f"the token expired at {_shown(claims['exp'])}")
        if claims.get("nbf", -math.inf) > now + _LEEWAY_S:
            raise UnauthenticatedError(f"the token is not valid before {_shown(claims['nbf'])}")
        if entry.expires is not None and now >= entry.expires.timestamp():
            text = f"the entry for the token expired at {entry.expires.isoformat()}"
            raise UnauthenticatedError(text)

    def _fast_hash(self, text: str) -> bytes:
        return hashlib.blake2b(text.encode(), key=self._salt, digest_size=32).digest()


def _header(text: str) -> tuple[str | None, str]:
    """Return the id of the key and the algorithm that the header of a token names.

    The header may be any JSON object, as nothing of it was verified.
    """
    if len(text) > _MOST_LETTERS:
        raise _WrongTokenError(f"it has more than {_MOST_LETTERS} letters")
    try:
        header = jwt.get_unverified_header(text)
    except Exception:  # whatever the bytes of a stranger lead to
        raise _WrongTokenError("it has no header that can be read") from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _WrongTokenError(f"its algorithm is none of {', '.join(sorted(ALGORITHMS))}")
    if not isinstance(key_id, str | None):
        raise _WrongTokenError("its header names a key by something other than a text")
    if "crit" in header:
        raise _WrongTokenError("its header asks for extensions")
    return key_id, algorithm


def _claims(text: str, key: SigningKey, algorithm: str, policy: TokenPolicy) -> Mapping[str, Any]:
    """Return the claims of a token, verified but for its times."""
    try:
        claims = jwt.decode(
            text,
            key.value,
            algorithms=[algorithm],
            audience=list(policy.audiences),
            issuer=policy.issuer,
            options={
                "require": ["exp", "iss", "aud"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.InvalidSignatureError:
        raise _WrongTokenError("its signature is wrong") from None
    except jwt.InvalidIssuerError:
        raise _WrongTokenError("it is of another issuer") from None
    except jwt.InvalidAudienceError:
        raise _WrongTokenError("it is for another audience") from None
    except jwt.MissingRequiredClaimError as error:
        raise _WrongTokenError(f"it lacks the claim {error.claim}") from None
    except Exception as error:
        raise _WrongTokenError(f"it cannot be read ({type(error).__name__})") from None
    for name in ("exp", "nbf"):
        value = claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_time(value):
            raise _WrongTokenError(f"its claim {name} is no time")
    return claims


def _is_time(seconds: float) -> bool:
    try:
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return False
    return True


def _shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
