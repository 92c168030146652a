"""The public keys of an issuer that sign its tokens (JWKS, RFC 7517)."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

logger = logging.getLogger(__name__)

# Algorithms by type of key and, for elliptic curves, by curve. There are none with shared secrets.
_ALGORITHMS: dict[tuple[str, str], tuple[str, ...]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
ALGORITHMS = frozenset(name for names in _ALGORITHMS.values() for name in names)
"""Algorithms of signatures that are accepted."""

_FEWEST_RSA_BITS = 2048
_MOST_KEYS = 64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key that verifies signatures.

    Attributes:
        id: Its name in the headers of tokens; None if it has none.
        algorithms: Algorithms that it may be used with.
        identity: Text that is equal for equal keys only.
        value: The key itself.
    """

    id: str | None
    algorithms: frozenset[str]
    identity: str
    value: Any = field(repr=False, compare=False)


def parse_keys(values: Any) -> tuple[SigningKey, ...]:
    """Return the usable keys of a JWKS, each once; keys for other purposes are left out.

    A key that cannot be used, whatever is wrong with it, leaves the others as they are.

    Raises:
        ValueError: The value is no JWKS, or holds no usable key.
    """
    entries = values.get("keys") if isinstance(values, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_KEYS:
        raise ValueError(f"expected a JSON object with 1 to {_MOST_KEYS} keys")
    keys = []
    for entry in entries:
        try:
            keys.append(_parsed(entry))
        except Exception as error:  # such as an algorithm that OpenSSL was built without
            reason = str(error) or type(error).__name__
            logger.warning("a key of the issuer is not used: %s", reason)
    if not keys:
        raise ValueError(f"expected a public key for one of {', '.join(sorted(ALGORITHMS))}")
    return tuple(dict.fromkeys(keys))


def _parsed(entry: Any) -> SigningKey:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a JSON object, got {type(entry).__name__}")
    kind = entry.get("kty")
    curve = "" if kind == "RSA" else entry.get("crv")
    known = _ALGORITHMS.get((str(kind), str(curve)), ())
    if not known:
        raise ValueError("expected an RSA key or one of a curve for ES256, ES384, ES512 or EdDSA")
    named = entry.get("alg")
    algorithms = {*known} & ({*known} if named is None else {str(named)})
    if not algorithms:
        raise ValueError(f"expected an algorithm of {', '.join(known)}")
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        raise ValueError("expected a key that verifies signatures")
    if "d" in entry:
        raise ValueError("expected a public key, got a private one, which is not secret any more")
    value = jwt.get_algorithm_by_name(known[0]).from_jwk(_public(entry))
    if kind == "RSA" and value.key_size < _FEWEST_RSA_BITS:
        raise ValueError(f"expected at least {_FEWEST_RSA_BITS} bits, got {value.key_size}")
    identity = json.dumps([sorted(algorithms), _public(entry)], sort_keys=True)
    key_id = entry.get("kid")
    return SigningKey(
        key_id if isinstance(key_id, str) else None, frozenset(algorithms), identity, value
    )


def _public(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
