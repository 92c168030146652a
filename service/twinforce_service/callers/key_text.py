"""The text of keys, and the hashes of it that are stored.

A key is `tf_ID_SECRET`: an id of 10 characters, which is no secret and finds the key in the file,
and a secret of 43, which are 256 random bits. Programs that look for leaked secrets find keys by
`KEY_PATTERN`.
"""

import base64
import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass

KEY_PATTERN = r"tf_[a-z0-9]{10}_[A-Za-z0-9]{43}"

_KEY = re.compile(KEY_PATTERN)
_HASH = re.compile(r"\$scrypt\$ln=(\d+),r=(\d+),p=(\d+)\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_ID_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits
# Cost of new hashes: 16 MiB and about 50 ms. A stored hash may cost 64 times as much.
_LOG_N, _R, _P = 14, 8, 1
_MOST_MEMORY = 2**30
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class SecretHash:
    """The salted hash of a secret by scrypt (RFC 7914); its text is in the PHC format.

    Attributes:
        log_n: Logarithm to base 2 of the cost N.
        r: Block size.
        p: Parallelization.
        salt: Random bytes.
        value: The hash.
    """

    log_n: int
    r: int
    p: int
    salt: bytes
    value: bytes

    def __str__(self) -> str:
        parameters = f"ln={self.log_n},r={self.r},p={self.p}"
        return f"$scrypt${parameters}${_encoded(self.salt)}${_encoded(self.value)}"

    def matches(self, secret: str) -> bool:
        """Return True if this is the hash of a secret; that takes tens of milliseconds."""
        return hmac.compare_digest(_scrypt(secret, self), self.value)


def new_key() -> tuple[str, str]:
    """Return the id and the text of a new key."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(10))
    secret = "".join(secrets.choice(_SECRET_LETTERS) for _ in range(43))
    return key_id, f"tf_{key_id}_{secret}"


def id_of(key: str) -> str | None:
    """Return the id in the text of a key; None if the text is not that of a key."""
    return key[3:13] if _KEY.fullmatch(key) else None


def hash_of(key: str) -> SecretHash:
    """Return a new hash of the text of a key."""
    empty = SecretHash(_LOG_N, _R, _P, secrets.token_bytes(16), b"\0" * _HASH_BYTES)
    return SecretHash(_LOG_N, _R, _P, empty.salt, _scrypt(key, empty))


def parse_hash(text: str) -> SecretHash:
    """Return the hash that a text describes.

    Raises:
        ValueError: The text is no hash by scrypt, or computing it would take too much memory. The
            message does not repeat the text.
    """
    found = _HASH.fullmatch(text)
    if found is None:
        raise ValueError("hash: expected $scrypt$ln=..,r=..,p=..$SALT$HASH")
    log_n, r, p = (int(number) for number in found.groups()[:3])
    if not (1 <= log_n <= 24 and r >= 1 and 1 <= p <= 16 and _memory(log_n, r) <= _MOST_MEMORY):
        raise ValueError(
            f"hash: expected one that takes at most 1 GiB, got ln={log_n}, r={r}, p={p}"
        )
    value = _decoded(found[5])
    if len(value) != _HASH_BYTES:
        raise ValueError(f"hash: expected {_HASH_BYTES} bytes, got {len(value)}")
    return SecretHash(log_n, r, p, _decoded(found[4]), value)


DUMMY = SecretHash(_LOG_N, _R, _P, b"\0" * 16, b"\0" * _HASH_BYTES)
"""A hash of nothing, so that a key with an unknown id takes as long as one with a known id."""


def _scrypt(secret: str, like: SecretHash) -> bytes:
    return hashlib.scrypt(
        secret.encode(),
        salt=like.salt,
        n=2**like.log_n,
        r=like.r,
        p=like.p,
        maxmem=2 * _memory(like.log_n, like.r) + 2**20,
        dklen=len(like.value),
    )


def _memory(log_n: int, r: int) -> int:
    """Return the bytes that a hash takes."""
    return 128 * r << log_n


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4))
